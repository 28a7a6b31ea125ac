"""`sentimoe predict` from files to a folder: any number of rows, in parts, stopped and gone on with at will."""

from __future__ import annotations

import glob
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .messages import Mistake, say, visible
from .places import WRITTEN, check_data, check_file, check_folder
from .stopping import stopped_by_signals

if TYPE_CHECKING:
    from sentimoe.batch import Report

FEWER_EXPERTS = (
    "warning: the threshold was found with the model's own number of experts; its guarantee does not hold here"
)
NO_THRESHOLD = (
    "--doubtful writes the rows below the threshold of {0}, which has none: sentimoe evaluate {0} --data LABELLED "
    "--target-accuracy 0.95 --save"
)
FILES = (*WRITTEN, ".tsv", ".json", ".txt", ".xls", ".ods", ".gz", ".zst")  # endings that no folder has
MINUTE = 60.0
DRY_ROWS = 1000


def label_many(
    model: str,
    inputs: Sequence[str],
    output: Path,
    settings: dict[str, Any],
    *,
    kind: str | None,
    text_column: str | None,
    delimiter: str | None,
    encoding: str | None,
    limit: int | None,
    max_characters: int | None,
    max_rejected: float,
    all_answers: bool,
    probabilities: bool,
    overwrite: bool,
    dry_run: bool,
    doubtful: Path | None,
    trust_remote_code: bool,
    verify: bool,
    cluster: dict[str, Any] | None,
) -> None:
    """Label all rows of the inputs. settings: of the classifier. cluster: of `sentimoe.batch.Cluster`. Raises Mistake and what `sentimoe.batch.run` raises."""
    if output.suffix.lower() in FILES and not output.is_dir():
        check_file(output, WRITTEN, overwrite)
        if kind is not None:
            raise Mistake(f"--format is of the files in a folder; {output} says it by its name")
    elif output.is_file():
        raise Mistake(f"{output} is a file; give a folder, or a name that ends in {', '.join(WRITTEN)}")
    else:
        check_folder(output)
    check_data(*(each for each in inputs if not glob.has_magic(each)))
    if doubtful is not None:
        check_file(doubtful, WRITTEN, overwrite)
        if doubtful.resolve() == output.resolve():
            raise Mistake(f"--output and --doubtful are both {output}; give two files")
    from sentimoe.batch import Cluster, Job, Predictor, run
    from sentimoe.batch.review import doubtful_rows
    from sentimoe.data import FileFormat, write_table
    from sentimoe.errors import ConfigError

    from .certificates import certificate_for, warn_of_layers
    from .show import prepare_process

    prepare_process()
    how = {"trust_remote_code": trust_remote_code, "verify": verify}
    own: dict[str, Any] = {"max_characters": max_characters, "all_answers": all_answers, "probabilities": probabilities}
    decide = settings | own

    where = None if cluster is None else Cluster(**cluster)
    made: list[Predictor] = []

    def make(column: str) -> Predictor:
        predictor = Predictor(model, text_column=column, **own, **settings, **how)
        if predictor.threshold is not None and settings["num_experts_per_tok"] is not None:
            say(FEWER_EXPERTS)
        if predictor.threshold is None and doubtful is not None:
            raise ConfigError(NO_THRESHOLD.format(model))
        made.append(predictor)
        return predictor

    job = Job(
        inputs, output, kind, text_column, FileFormat(encoding, delimiter), limit, max_rejected, overwrite=overwrite
    )
    if dry_run:
        say_what_it_takes(job, make)
        return
    certificate = certificate_for(model, settings["max_disagreement"], settings["precision"], settings["long_texts"])
    with stopped_by_signals("sentimoe"), _progress() as progress:
        report = run(job, make, decide, progress, where)
    if certificate is not None and report.layers:
        warn_of_layers(certificate, report.layers)
    for line in told(report, output, made[0].engine.max_length):
        say(line)
    if doubtful is not None:
        queue = doubtful_rows(output)
        write_table(queue, doubtful, overwrite)
        say(f"{len(queue):,} of them are doubtful, and written to {doubtful} too")


def told(report: Report, output: Path, max_length: int) -> list[str]:
    """What became of the rows. max_length: tokens that the model reads."""
    lines = [f"{report.rows:,} row{'s' * (report.rows != 1)} written to {output}: {report.scored:,} have a label"]
    if report.reasons:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in report.reasons.most_common())
        lines[0] += f"; without one: {counts}"
    if report.truncated:
        lines.append(f"warning: {report.truncated:,} texts were cut at {max_length} tokens")
    if report.replaced:
        counts = ", ".join(f"{count:,} in {visible(name)}" for name, count in report.replaced.most_common())
        lines.append(
            f"warning: cells outside the texts hold bytes that are no character ({counts}); U+FFFD stands there"
        )
    if report.places:
        lines.append(f"first rejected rows: {'; '.join(report.places)}")
    if report.resumed:
        lines.append(f"{report.resumed:,} of them were finished before")
    return lines


def say_what_it_takes(job: Any, make: Any) -> None:
    """Label the first rows, and say what was found and what the whole takes."""
    import pandas as pd

    from sentimoe.batch.files import KINDS
    from sentimoe.batch.inputs import column_of_texts, input_files, looked_at, parts

    sources = looked_at(input_files(job.inputs, (job.output,)), job.file_format, job.text_column)
    for source in sources:
        form = f", delimiter {source.delimiter!r}" if source.delimiter else ""
        say(f"{source.path}: {source.size / 1e6:.1f} MB{form}{f', {source.encoding}' if source.encoding else ''}")
    column = column_of_texts(sources, job.text_column)
    say(f"columns: {', '.join(sources[0].columns)}; the texts are in {column!r}")
    empty = pd.DataFrame(columns=list(sources[0].columns), dtype=object)
    frame = next(parts(sources, DRY_ROWS, min(DRY_ROWS, job.limit or DRY_ROWS)), empty)
    predictor = make(column)
    predictor.labelled(frame.head(64))  # warm
    started = time.monotonic()
    labelled = predictor.labelled(frame)
    seconds = max(time.monotonic() - started, 1e-9)
    say(f"{len(frame):,} rows read: {len(frame) / seconds:.0f} rows/s")
    own = sources[0].kind.removeprefix(".")
    packed = any(source.path.suffix.lower() in (".gz", ".zst") for source in sources)
    if len(frame) < DRY_ROWS or own not in ("csv", "tsv", "jsonl") or packed:
        return
    kind = job.kind or job.output.suffix.lower().removeprefix(".")
    kind = kind if kind in KINDS else own
    rows = sum(source.size for source in sources) * len(frame) / _bytes_of(frame, own)
    rows = min(rows, job.limit or rows)
    disk = rows / len(frame) * _bytes_of(labelled, kind) / 1e9
    say(f"about {rows:,.0f} rows in all: {rows * seconds / len(frame) / 3600:.2g} hours, {disk:.2g} GB of disk")


def _bytes_of(frame: Any, kind: str) -> int:
    """Of a table in a file of that kind."""
    from sentimoe.data import write_table

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{'csv' if kind == 'tsv' else kind}"
        write_table(frame, path)
        return path.stat().st_size


@contextmanager
def lines_as_file(stream: IO[bytes]) -> Iterator[Path]:
    """Lines of texts as a JSONL file for as long as it is needed: a job looks at its input before it reads it.

    Bytes that are not UTF-8 stay as they are, so that their rows are rejected.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "standard-input.jsonl"
        with path.open("wb") as file:
            for line in stream:
                text = line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "surrogateescape")
                record = json.dumps({"text": text}, ensure_ascii=False)
                file.write(record.encode("utf-8", "surrogateescape") + b"\n")
        yield path


@contextmanager
def _progress() -> Iterator[Any]:
    """Told of finished rows: a line a minute, so that a log shows life; on a terminal every ten seconds."""
    started = last = time.monotonic()
    done = rejected = before = 0
    live = sys.stderr is not None and sys.stderr.isatty()

    def progress(rows: int, bad: int) -> None:
        nonlocal done, rejected, last, before
        done, rejected, now = done + rows, rejected + bad, time.monotonic()
        if now - last >= (MINUTE / 6 if live else MINUTE):
            rate = (done - before) / (now - last)
            say(f"{done:,} rows, {rate:,.0f} rows/s, {rejected:,} rejected, {now - started:,.0f} s")
            last, before = now, done

    yield progress
