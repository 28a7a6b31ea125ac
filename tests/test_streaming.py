"""Files read some rows at a time: the rows of `read_table`, whatever the form, size and place of the cuts."""

import errno
import gzip
import json
import logging

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sentimoe.data import characters, streaming
from sentimoe.data.characters import UNDECODABLE, Trimmed
from sentimoe.data.reading import READERS, FileFormat, read_table
from sentimoe.data.streaming import frames, inspected
from sentimoe.errors import ConfigError, DataError, StoppedError

PLAIN = FileFormat()


def whole(path, rows=3, file_format=PLAIN):
    parts = list(frames(inspected(path, file_format), rows))
    assert all(0 <= len(part) <= rows for part in parts)
    return pd.concat(parts, ignore_index=True)


def table():
    texts = ["plain", "with, comma", 'a "quote"', "two\nlines", "", "naïve café 😀", "NA", " spaces ", "end"]
    return pd.DataFrame({"id": range(len(texts)), "Text": texts})


def zst(path, data):
    with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as stream:
        stream.write(data)
    return path


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["csv", "CSV", "tsv", "jsonl", "parquet", "xlsx", "json"])
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_every_form_gives_the_rows_of_a_whole_reading(tmp_path, kind, ending, rows):
    path, frame = tmp_path / f"x.{kind}", table()
    if kind.lower() == "csv":
        frame.to_csv(path, index=False, sep=";")
    elif kind == "tsv":
        frame.to_csv(path, index=False, sep="\t")
    elif kind == "jsonl":
        lines = [json.dumps(row, ensure_ascii=False) for row in frame.to_dict("records")]
        path.write_text("\n".join([*lines[:4], '{"Text": "x", "more": [1]}', *lines[4:]]) + "\n\n", encoding="utf-8")
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "json":
        frame.to_json(path, orient="records")
    else:
        frame.to_excel(path, index=False, engine="xlsxwriter")
    data, packed = path.read_bytes(), path.with_name(path.name + ending)
    if ending == ".gz":
        packed.write_bytes(gzip.compress(data))
    elif ending == ".zst":
        zst(packed, data)
    expected = read_table(packed).frame
    pd.testing.assert_frame_equal(whole(packed, rows), expected, check_column_type=False)
    assert inspected(packed, PLAIN).columns == tuple(expected.columns)


@pytest.mark.parametrize(
    "content",
    [
        "text\na\n\nb\n\n\n",
        "text\na\n\n\n\n\n\n\nb",
        "sep=;\ntext;x\na,b;1\n",
        "\ufefftext,x\r\na,1\r\nb,2\r\n",
        "text,text\n1,2\n",
        "text,,x\n1,2,3\n",
        "text\n" + "long " * 400_000 + "\nb\n",
        'text,x\n"a\nb,c",1\n,,\n'.replace(",,", ","),
        "text\tx\n" + "a\t1\n" * 50,
    ],
)
def test_odd_csv_is_read_as_whole(tmp_path, content, monkeypatch):
    path = tmp_path / "x.csv"
    path.write_text(content, encoding="utf-8", newline="")
    expected = read_table(path).frame
    for size in (7, 1 << 20):
        monkeypatch.setattr(streaming, "HEAD", max(size, 200))
        monkeypatch.setattr(characters, "BLOCK", size if len(content) < 1000 else 1 << 20)
        found = whole(path, 2)
        assert found.to_numpy().tolist() == expected.to_numpy().tolist()
        assert len(found.columns) == len(set(found.columns))


@pytest.mark.parametrize("place", [streaming.ROWS_AT_ONCE, streaming.ROWS_CHECKED, 700])
def test_rows_with_other_cells_are_the_same_wherever_chunks_begin(tmp_path, place):
    """Kind: older releases of pandas lose the cell too many of a row that begins a chunk."""
    lines = ["id,text", *["1,a"] * (streaming.ROWS_CHECKED + 50)]
    (tmp_path / "long.csv").write_text("\n".join([*lines[:place], "1,a,b", *lines[place:]]))
    with pytest.raises(DataError, match="malformed CSV"):
        inspected(tmp_path / "long.csv", PLAIN)
    (tmp_path / "short.csv").write_text("\n".join([*lines[:place], "1", *lines[place:]]))
    assert whole(tmp_path / "short.csv", streaming.ROWS_AT_ONCE)["text"].tolist().count("") == 1


def test_excel_encoding_is_found_and_said(tmp_path, caplog):
    path = tmp_path / "x.csv"
    path.write_bytes("Text;n\ncafé – très bon;1\nnaïve;2\n".encode("cp1252"))
    with caplog.at_level(logging.WARNING):
        assert whole(path)["Text"].tolist() == ["café – très bon", "naïve"]
    assert "is not UTF-8 and read as cp1252" in caplog.text
    path.write_bytes(b"Text;x\nno;1\n")
    assert whole(path)["Text"].tolist() == ["no"] and "columns are separated by ';'" in caplog.text
    path.write_bytes("Text\nпривет\nкак дела\n".encode("cp1251"))
    with pytest.raises(DataError, match=r"2 of 3 lines are not UTF-8; name the encoding .* --encoding"):
        inspected(path, PLAIN)
    assert whole(path, 3, FileFormat("cp1251"))["Text"].tolist() == ["привет", "как дела"]
    for name in ("cp9", "rot13", "base64", "undefined"):
        with pytest.raises(ConfigError, match=f"encoding='{name}' is no encoding of text"):
            inspected(path, FileFormat(name))
    for told, encoding in ((None, "utf-16"), ("utf-16", "utf-16"), (None, "utf-32")):
        path.write_bytes("Text\nzwei\n".encode(encoding))
        assert whole(path, 3, FileFormat(told))["Text"].tolist() == ["zwei"]
    (tmp_path / "x.json").write_bytes('[{"Text": "się"}]'.encode("iso-8859-2"))
    assert whole(tmp_path / "x.json", 3, FileFormat("iso-8859-2"))["Text"].tolist() == ["się"]


def test_single_rows_that_cannot_be_decoded_are_marked(tmp_path):
    path = tmp_path / "x.csv"
    lines = ["text"] + ["größer"] * 500
    data = "\n".join(lines).encode() + b"\nbr\xffken\xfe\nlast\n"
    path.write_bytes(data)
    found = whole(path, 100)["text"]
    assert found.str.contains(UNDECODABLE).sum() == 1 and found.iloc[500] == f"br{UNDECODABLE}ken{UNDECODABLE}"
    assert found.iloc[501] == "last"
    path.write_bytes(b"text\n" + b"plain\n" * 500 + b"\x81\xff\n")  # neither UTF-8 nor cp1252
    assert whole(path, 100)["text"].iloc[-1] == 2 * UNDECODABLE


def test_lines_across_blocks_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "HEAD", 13)
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {row}"}) + "\n" for row in range(40)))
    assert whole(path)["text"].tolist() == [f"text {row}" for row in range(40)]


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    """A generator that holds one table at a time: the next one is not read before it is asked for."""
    path = tmp_path / "x.csv"
    pd.DataFrame({"text": np.arange(400_000).astype(str)}).to_csv(path, index=False)
    source, read, taken = inspected(path, PLAIN), Trimmed.read, []
    monkeypatch.setattr(Trimmed, "read", lambda *given: taken.append(read(*given)) or taken[-1])
    monkeypatch.setattr(streaming, "HEAD", 1000)
    parts = frames(source, 1000)
    first = next(parts)["text"].tolist()
    assert sum(map(len, taken)) < path.stat().st_size / 2
    assert first[:2] == ["0", "1"] and sum(len(part) for part in parts) == 400_000 - len(first)


def test_a_quote_that_is_never_closed_takes_a_bounded_memory(tmp_path, monkeypatch):
    """Kind: the rest of a file of any size becomes one cell, until memory runs out."""
    monkeypatch.setattr(streaming, "MOST_BETWEEN", 4_000_000)
    path = tmp_path / "x.csv"
    path.write_text("text\n" + "a\n" * 3000 + '"open\n' + ("c" * 999 + "\n") * 9000)
    with pytest.raises(DataError, match=r"x\.csv: more than 4,000,000 characters follow row 2,\d+ .*quote left open"):
        inspected(path, PLAIN)
    path.write_text("text\n" + ("c" * 999 + "\n") * 9000)  # as many in rows of their own
    assert inspected(path, PLAIN).rows == 9000


def test_long_rows_after_short_ones_are_looked_at_a_few_at_a_time(tmp_path, monkeypatch):
    """Kind: a file that is sorted by length, and 8,192 rows of 100 kB at once."""
    path, plain, most = tmp_path / "x.csv", streaming._delimited, []
    path.write_text("text\n" + "a\n" * 1_000_000 + ("b" * 2000 + "\n") * 8000)

    def spied(*given):
        for frame in plain(*given):
            most.append(int(frame.iloc[:, 0].str.len().sum()))
            yield frame

    monkeypatch.setattr(streaming, "_delimited", spied)
    assert inspected(path, PLAIN).rows == 1_008_000 and max(most) <= 1024 * 2000


def test_an_endless_line_is_cut_between_two_characters(tmp_path, monkeypatch):
    """Kind: a long Chinese text is no UTF-8."""
    monkeypatch.setattr(characters, "BLOCK", 1000)
    monkeypatch.setattr(characters, "SAMPLE", 1000)
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "很好" * 3000}, ensure_ascii=False) + "\n")
    assert whole(tmp_path / "x.jsonl")["text"].tolist() == ["很好" * 3000]


@pytest.mark.parametrize("name", ["x.json", "x.xlsx", "x.csv", "x.jsonl", "x.parquet"])
def test_a_disk_that_fails_for_a_while_stops_and_refuses_nothing(tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.write_text("[]")

    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(streaming, "sha256", fails)
    monkeypatch.setattr("sentimoe.data.reading.read_bytes", fails)
    monkeypatch.setitem(READERS, ".xlsx", fails)
    with pytest.raises(StoppedError, match=r"cannot be read now \(Input/output error\); what is finished stays"):
        inspected(path, PLAIN)


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("x.csv", b"", "empty or its first line is"),
        ("x.csv", b"text\na\nb,c,d\n", "malformed CSV"),
        ("x.csv", b"text\n" + b"a\n" * 20_000 + b"b,c,d\n", "malformed CSV"),
        ("x.csv.zst", b"\x28\xb5\x2f\xfd and nothing", "damaged or cut short"),
        ("x.jsonl", b'{"text": "a"}\nno\n', "line 2: not valid JSON"),
        ("x.jsonl", b'{"text": "a"}\n\n{"text": "b"}\n', "line 2: not valid JSON"),
        ("x.parquet", b"PAR1 and nothing", "cannot be read"),
        ("x.csv", b"PK\x03\x04rest", "zip archive or a spreadsheet"),
        ("x.csv.gz", gzip.compress(b"text\na\n" * 1000, mtime=0)[:-9], "damaged or cut short"),
        ("x.doc", b"text", "unsupported extension"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(tmp_path, name, data, told):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=told) as raised:
        inspected(path, PLAIN)  # before any work
    assert str(path) in str(raised.value)
