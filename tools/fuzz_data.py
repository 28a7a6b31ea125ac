"""`make fuzz`: damage data files by the thousand, read them, and compare with a slow reader that is plain to see.

Every case is a small file of labelled texts, damaged by one kind of mutation, drawn by the number of the case alone. It
is read as `sentimoe predict` and as `sentimoe train` read it. Good outcomes: "refused" (an error that sentimoe raises
on purpose, of one line, with the file in it), "as before" (the rows of the file without the damage) and "as written"
(the rows that `csv`, `json` or pyarrow give, read here row by row). Bad ones: "other rows", "raw error", "hang",
"crash" and "memory". A worker process reads, so that nothing it does stops the count.
"""

from __future__ import annotations

import argparse
import codecs
import csv
import gzip
import io
import json
import math
import random
import resource
import select
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sentimoe.data import load_dataset, read_texts
from sentimoe.errors import SentiMoEError
from sentimoe.records import write_json, write_text

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "results/reliability/fuzz_data.json", ROOT / "docs/reliability.md"
MARKS = ("<!-- fuzz data -->", "<!-- /fuzz data -->")
GOOD, BAD = ("refused", "as before", "as written"), ("other rows", "raw error", "hang", "crash", "memory")
SECONDS, MEBIBYTES = 20.0, 512  # of one case: before it counts as hanging, and that it may add to the peak memory
WORKER = (sys.executable, __file__, "--worker")
csv.field_size_limit(2**31 - 1)

Row = dict[str, Any]
Mutation = Callable[[random.Random, bytes], bytes]


# --- a file without damage


def draw_rows(draw: random.Random) -> list[Row]:
    """12 to 40 rows: awkward texts, no two the same, and two labels."""
    alphabet = "abcde  ,;\"'\t\n\\{}[]:#é\u0301ß💓\u2028\u200d01"
    words = ["".join(draw.choices(alphabet, k=draw.randint(1, 30))) for _ in range(draw.randint(12, 40))]
    return [{"id": n, "text": f"t{n} {word}", "label": ("bad", "good")[n % 2]} for n, word in enumerate(words)]


def write_csv(draw: random.Random, rows: list[Row]) -> bytes:
    stream = io.StringIO(newline="")
    quoting = draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    writer = csv.DictWriter(stream, list(rows[0]), quoting=quoting, lineterminator=draw.choice(["\n", "\r\n"]))
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def write_jsonl(draw: random.Random, rows: list[Row]) -> bytes:
    ascii_only = draw.random() < 0.5
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode()


def write_parquet(draw: random.Random, rows: list[Row]) -> bytes:
    kind = draw.choice([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
    columns = {"id": pa.array([row["id"] for row in rows]), "label": pa.array([row["label"] for row in rows])}
    return as_parquet(draw, {"text": pa.array([row["text"] for row in rows]).cast(kind), **columns})


def as_parquet(draw: random.Random, columns: dict[str, pa.Array]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(
        pa.table(columns),
        stream,
        compression=draw.choice(["none", "snappy", "gzip", "zstd"]),
        use_dictionary=draw.random() < 0.5,
        row_group_size=draw.choice([5, 1000]),
        data_page_version=draw.choice(["1.0", "2.0"]),
        write_page_checksum=draw.random() < 0.3,
    )
    return stream.getvalue()


WRITERS = {".csv": write_csv, ".jsonl": write_jsonl, ".parquet": write_parquet}


# --- damage


def stretch(draw: random.Random, data: bytes) -> tuple[int, int]:
    """A place in the data, (start, end)."""
    start = draw.randrange(len(data) + 1)
    return start, min(len(data), start + draw.randint(1, 64))


def flip_bits(draw: random.Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(draw.randint(1, 4) if data else 0):
        found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
    return bytes(found)


def overwrite(draw: random.Random, data: bytes) -> bytes:
    start, end = stretch(draw, data)
    return data[:start] + draw.randbytes(end - start) + data[end:]


def cut_out(draw: random.Random, data: bytes) -> bytes:
    start, end = stretch(draw, data)
    return data[:start] + data[end:]


def repeat(draw: random.Random, data: bytes) -> bytes:
    start, end = stretch(draw, data)
    return data[:end] + data[start:end] * draw.randint(1, 3) + data[end:]


def swap(draw: random.Random, data: bytes) -> bytes:
    cuts = sorted(draw.randrange(len(data) + 1) for _ in range(3))
    return data[: cuts[0]] + data[cuts[1] : cuts[2]] + data[cuts[0] : cuts[1]] + data[cuts[2] :]


def truncate(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def zero_tail(draw: random.Random, data: bytes) -> bytes:
    kept = draw.randrange(len(data) + 1)
    return data[:kept] + bytes(len(data) - kept)


def insert_characters(draw: random.Random, data: bytes) -> bytes:
    """A few characters that mean something to a parser."""
    special = ['"', '""', ",", ";", "\r", "\n", "\r\n", "\0", "\\", "\t", "{", "}", "[", "]", ":", "'", "\x1a", "\x0c"]
    special += ["\ufeff", "\u2028", "\x85", "\u202e", "\\u", "\\ud83d", "1e999", "NaN", "-0", "null", "true"]
    for _ in range(draw.randint(1, 3)):
        start = draw.randrange(len(data) + 1)
        data = data[:start] + draw.choice(special).encode() + data[start:]
    return data


def drop_characters(draw: random.Random, data: bytes) -> bytes:
    """One or two of those that hold the rows together."""
    for _ in range(draw.randint(1, 2)):
        places = [i for i, byte in enumerate(data) if byte in b'",\n\r{}:\\']
        if places:
            start = draw.choice(places)
            data = data[:start] + data[start + 1 :]
    return data


def blank_lines(draw: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    place = draw.choice([0, len(lines), draw.randrange(len(lines))])
    return b"\n".join(lines[:place] + [draw.choice([b"", b"\r", b" ", b","])] * draw.randint(1, 3) + lines[place:])


def other_encoding(draw: random.Random, data: bytes) -> bytes:
    text = data.decode("utf-8")
    name = draw.choice(["utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252", "utf-7"])
    return text.encode(name, "replace")


def compressed(draw: random.Random, data: bytes) -> bytes:
    if draw.random() < 0.5:
        return gzip.compress(data, mtime=0)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("data", data)
    return stream.getvalue()


def csv_shape(draw: random.Random, data: bytes) -> bytes:
    """Names, rows and cells of another number or size."""
    header, _, rest = data.partition(b"\n")
    lines = rest.split(b"\n")
    place = draw.randrange(len(lines))
    return draw.choice(
        [
            lambda: header.replace(b"id", b"text", 1) + b"\n" + rest,
            lambda: header.replace(b"id", b"label", 1) + b"\n" + rest,
            lambda: header.replace(b"id", b"", 1) + b"\n" + rest,
            lambda: header + b",extra\n" + rest,
            lambda: header.rpartition(b",")[0] + b"\n" + rest,
            lambda: b"\n".join([header, *lines[:place], b"1,a,bad,4,5", *lines[place:]]),
            lambda: b"\n".join([header, *lines[:place], b"1", *lines[place:]]),
            lambda: b"\n".join([header, *lines[:place], b"9," + b"long " * 40_000 + b",bad", *lines[place:]]),
            lambda: b",".join([header, *[b"c"] * 2000]) + b"\n" + rest,
            lambda: header + b"\n",
            lambda: rest,
        ]
    )()


def json_values(draw: random.Random, data: bytes) -> bytes:
    """A line whose text, label or something else is of another kind, or that is no object."""
    depth = draw.choice([5, 400, 900, 3000, 100_000])
    odd = [
        *("null", "5", "-1.5", "true", "NaN", "Infinity", "1e999", '""', '" "', '"\\ud83d"', '"\\u0000"', '"5"'),
        *(
            "[]",
            '["a"]',
            "{}",
            '{"a": [1]}',
            "1" * draw.choice([30, 5000]),
            "0.1" + "0" * 5000,
            '"' + "x" * 200_000 + '"',
        ),
        *("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth),
    ]
    name, value = draw.choice(["text", "label", "id", "more", "text\\ud83d", ""]), draw.choice(odd)
    line = draw.choice(
        [
            f'{{"text": "b", "label": "bad", "{name}": {value}}}',
            f'{{"{name}": {value}, "id": 3}}',
            f'{{"id": 1, "{name}": {value}, "{name}": 2}}',
            value,
        ]
    )
    lines = data.decode("utf-8").split("\n")
    place = draw.randrange(len(lines))
    return "\n".join([*lines[:place], line, *lines[place:]]).encode("utf-8")


def parquet_types(draw: random.Random, data: bytes) -> bytes:
    """A table whose texts or labels are of another type, or whose columns are others."""
    odd = [
        pa.array([["a"], None, []], pa.list_(pa.string())),
        pa.array([{"a": 1}, None, {}]),
        pa.array([b"a", None, b"\xff"]),
        pa.array([1, None, 3]),
        pa.array([1.5, math.nan, None]),
        pa.array([2**58, 0, None], pa.timestamp("us")),
        pa.array([2**58, 0, None], pa.timestamp("us", "UTC")),
        pa.array([1, 2, None], pa.date32()),
        pa.array([True, None, False]),
        pa.array([None, None, None], pa.null()),
        pa.array(["a", None, ""], pa.string_view()),
        pa.array([1, 2**40, None], pa.duration("s")),
        pa.Array.from_buffers(
            pa.string(),
            3,
            [None, pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0])), pa.py_buffer(b"\xff\xfe")],
        ),
    ]
    plain = {"id": pa.array([1, 2, 3]), "text": pa.array(["a", "b", "c"]), "label": pa.array(["x", "y", "x"])}
    columns = plain | {draw.choice(["text", "label", "id"]): draw.choice(odd)}
    if draw.random() < 0.2:
        columns = {name: array[:0] for name, array in columns.items()}
    if draw.random() < 0.2:
        columns.pop(draw.choice(list(columns)))
    return as_parquet(draw, columns)


ANY: dict[str, Mutation] = {
    "flipped bits": flip_bits,
    "overwritten bytes": overwrite,
    "bytes cut out": cut_out,
    "bytes repeated": repeat,
    "parts swapped": swap,
    "truncated": truncate,
    "zeroed tail": zero_tail,
    "compressed": compressed,
}
TEXT: dict[str, Mutation] = {
    "characters inserted": insert_characters,
    "characters dropped": drop_characters,
    "blank lines": blank_lines,
    "other encoding": other_encoding,
}
MUTATIONS: dict[str, dict[str, Mutation]] = {
    ".csv": {**ANY, **TEXT, "columns and cells": csv_shape},
    ".jsonl": {**ANY, **TEXT, "odd values": json_values},
    ".parquet": {**ANY, "other types": parquet_types},
}
OTHER_NAME = "another extension"


# --- the slow reader


class Unreadable(Exception):
    """What the slow reader cannot read, or what must be refused."""


def reference(data: bytes, suffix: str) -> list[Row]:
    """The rows of a file, plainly. Raises Unreadable."""
    try:
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        return {".csv": reference_csv, ".jsonl": reference_jsonl, ".parquet": reference_parquet}[suffix](data)
    except (
        ValueError,
        OverflowError,
        RecursionError,
        csv.Error,
        pa.ArrowException,
        OSError,
        EOFError,
        zlib.error,
    ) as error:
        raise Unreadable(str(error)) from error


def reference_decoded(data: bytes) -> str:
    """UTF-8, UTF-16 with its mark, or cp1252 where nothing beyond ASCII is UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    latin = not data.isascii() and data.decode("utf-8", "ignore").isascii()
    return data.decode("cp1252" if latin else "utf-8").removeprefix("\ufeff")


def reference_csv(data: bytes) -> list[Row]:
    text = reference_decoded(data).rstrip("\r\n")
    names, *lines = csv.reader(io.StringIO(text, newline=""))
    if any(len(line) > len(names) for line in lines) or "text" not in names or names.count("text") > 1:
        raise Unreadable("a row longer than the header, or not one column of texts")
    rows = [dict(zip(names, line + [""] * (len(names) - len(line)), strict=True)) for line in lines]
    return [{name: cell for name, cell in row.items() if name and names.count(name) == 1} for row in rows]


def reference_jsonl(data: bytes) -> list[Row]:
    rows = [json.loads(line) for line in reference_decoded(data).rstrip().split("\n")]
    if not all(isinstance(row, dict) for row in rows) or not any("text" in row for row in rows):
        raise Unreadable("a line that is no object, or no text")
    return rows


def reference_parquet(data: bytes) -> list[Row]:
    table = pq.read_table(io.BytesIO(data), use_threads=False)
    if table.column_names.count("text") != 1:
        raise Unreadable("not one column of texts")
    kinds = {name: table[name].type for name in table.column_names if table.column_names.count(name) == 1}
    plain = [name for name, kind in kinds.items() if pa.types.is_string(kind) or pa.types.is_integer(kind)]
    return table.select(sorted({"text", *plain})).to_pylist()


def reference_text(row: Row) -> str:
    """The text of a row as it is predicted on. Raises Unreadable for what is none."""
    value = row.get("text")
    if isinstance(value, list | dict | bytes):
        raise Unreadable("a list, an object or bytes")
    if isinstance(value, timedelta):
        value = pd.Timedelta(value)  # as pandas writes it
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in str(value))


# --- one case


def draw_case(number: int) -> tuple[str, str, str, bytes, bytes]:
    """(format, kind of damage, name of the file, data before, data after) of a case, the same for the same number."""
    draw = random.Random(f"data {number}")
    suffix = draw.choice(list(WRITERS))
    before = WRITERS[suffix](draw, draw_rows(draw))
    kind = draw.choice([*MUTATIONS[suffix], OTHER_NAME])
    if kind != OTHER_NAME:
        return suffix, kind, f"{number}{suffix}", before, MUTATIONS[suffix][kind](draw, before)
    other = draw.choice([suffix.upper(), *WRITERS, ".tsv", ".csv.gz", ""])
    return suffix, kind, f"{number}{other}", before, before


def try_case(number: int, folder: Path) -> Row:
    """Read the file of a case both ways: its outcome, with a detail where it is bad."""
    format_, kind, name, before, after = draw_case(number)
    path = folder / name
    path.write_bytes(after)
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix.lower()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        expected = reference(after, suffix) if suffix in WRITERS else None
        texts = None if expected is None else [reference_text(row) for row in expected]
    except Unreadable:
        expected = texts = None
    found = [judge(lambda: predicted(path, expected, texts), path), judge(lambda: trained(path, expected), path)]
    path.unlink()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    if grown > MEBIBYTES:
        found.append(("memory", f"{grown:.0f} MiB"))
    outcome, detail = next((each for each in found if each[0] in BAD), found[0])
    if outcome == "as written" and expected == reference(before, format_):
        outcome = "as before"
    read = None if texts is None else len(texts)
    return {"case": number, "format": format_, "kind": kind, "outcome": outcome, "detail": detail, "reference": read}


def judge(read: Callable[[], str], path: Path) -> tuple[str, str]:
    """(outcome, detail) of one way of reading."""
    try:
        difference = read()
    except SentiMoEError as error:
        told = str(error)
        plain = "\n" not in told and path.name in told and len(told) < 4000
        return ("refused", told) if plain else ("raw error", f"not one plain line: {told[:300]}")
    except Exception as error:  # noqa: BLE001 - what is looked for
        return "raw error", f"{type(error).__name__}: {error}"[:300]
    return ("other rows", difference) if difference else ("as written", "")


def predicted(path: Path, expected: list[Row] | None, texts: list[str] | None) -> str:
    """How the rows to predict on differ from the slow reader's; "" where they do not."""
    frame, found = read_texts(path)
    if expected is None or texts is None:
        return "read, where the slow reader has no rows"
    if found != texts:
        return f"texts {found} instead of {texts}"[:300]
    for name in {name for row in expected for name in row if name != "text"}:
        given = frame[name]
        if ".parquet" in path.name.lower():
            if name != "id":
                continue  # other types have other objects in pandas
            given = pa.array(given).to_pylist()
        if not all(map(same, given, (row.get(name) for row in expected))):
            return f"column {name}"
    return ""


def same(one: Any, other: Any) -> bool:
    """Whether two cells are equal, or both missing."""
    missing = [
        value is None or value is pd.NA or (isinstance(value, float) and value != value) for value in (one, other)
    ]
    return all(missing) if any(missing) else one == other


def trained(path: Path, expected: list[Row] | None) -> str:
    """The same of the rows to train on, whatever their order; only texts and labels that are all there are taken."""
    dataset = load_dataset(str(path))
    splits = dataset.splits.values()
    found = [(text, dataset.label_names[i]) for part in splits for text, i in zip(part.texts, part.labels, strict=True)]
    rows = [] if expected is None else [(row.get("text"), str(row.get("label"))) for row in expected if both(row)]
    return "" if sorted(found) == sorted(rows, key=str) or sorted(found) == sorted(rows) else "rows to train on"


def both(row: Row) -> bool:
    """Whether a row has a text and a label."""
    return all(str("" if row.get(name) is None else row[name]).strip() for name in ("text", "label"))


# --- many cases


def work(cases: Iterator[int]) -> None:
    """What the worker does: a line of JSON for every case."""
    with tempfile.TemporaryDirectory() as folder:
        for number in cases:
            print(json.dumps(try_case(number, Path(folder))), flush=True)


def watch(first: int, last: int, program: Sequence[str] = WORKER, seconds: float = SECONDS) -> Iterator[Row]:
    """The outcomes of the cases from `first` to before `last`, by workers that are replaced when one hangs or dies."""
    while first < last:
        with subprocess.Popen([*program, str(first), str(last)], stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            patience = 15 * seconds  # the first case comes after the imports
            while first < last:
                ready, _, _ = select.select([worker.stdout], [], [], patience)
                line = worker.stdout.readline() if ready else ""
                if not line:
                    worker.kill()
                    format_, kind, *_ = draw_case(first)
                    outcome = "crash" if ready else "hang"
                    found = {"outcome": outcome, "detail": "", "reference": None}
                    yield {"case": first, "format": format_, "kind": kind} | found
                    first += 1
                    break
                yield json.loads(line)
                first, patience = first + 1, seconds


def table(rows: list[Row]) -> str:
    """Counts by format, kind of damage and outcome, in Markdown."""
    counts = Counter((row["format"], row["kind"], row["outcome"]) for row in rows)
    bad = sum(row["outcome"] in BAD for row in rows)
    stricter = sum(row["outcome"] == "refused" and row["reference"] is not None for row in rows)
    lines = [
        f"{len(rows):,} damaged files: {bad} bad outcomes. In {stricter} refused files, the slow reader finds rows.",
        "",
        f"| format | damage | {' | '.join(GOOD)} | bad |",
        "|---|---|---|---|---|---|",
    ]
    for format_, kind in sorted({(row["format"], row["kind"]) for row in rows}):
        cells = [str(counts[format_, kind, outcome]) for outcome in GOOD]
        wrong = sum(counts[format_, kind, outcome] for outcome in BAD)
        lines.append(f"| {format_} | {kind} | {' | '.join(cells)} | {wrong} |")
    return "\n".join(lines)


def main() -> int:
    """Try the cases. 1: a bad outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} and the table of {PAGE.name}")
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.worker:
        work(iter(range(*told.worker)))
        return 0
    rows = []
    for row in watch(told.first, told.first + told.cases):
        rows.append(row)
        if row["outcome"] in BAD:
            print(json.dumps(row), flush=True)
    print(table(rows))
    if told.write:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        counts = Counter(f"{row['format']}, {row['kind']}, {row['outcome']}" for row in rows)
        write_json(RESULTS, {"cases": len(rows), "first": told.first, "counts": dict(sorted(counts.items()))})
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        write_text(PAGE, f"{before}{MARKS[0]}\n{table(rows)}\n{MARKS[1]}{after}")
    return int(any(row["outcome"] in BAD for row in rows))


if __name__ == "__main__":
    sys.exit(main())
