"""`sentimoe predict` from files to a folder: any number of rows, in parts, stopped and gone on with at will."""

from __future__ import annotations

import errno
import glob
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .messages import Mistake, say, visible
from .models import beside_model
from .places import WRITTEN, check_data, check_file, check_folder
from .stopping import stopped_by_signals
from .stream import Update, counted, lasting

if TYPE_CHECKING:
    from sentimoe.batch import Report

OTHER_DIAL = "warning: the threshold was found without {}; its guarantee does not hold here"
DIALS = {"num_experts_per_tok": "--experts-per-token", "max_disagreement": "--max-disagreement"}
NO_THRESHOLD = (
    "--doubtful writes the rows below the threshold of {0}, which has none: sentimoe evaluate {0} --data LABELLED "
    "--target-accuracy 0.95 --save"
)
FILES = (*WRITTEN, ".tsv", ".json", ".txt", ".xls", ".ods", ".gz", ".zst")  # endings that no folder has
DRY_ROWS = 1000
READING = "reading the input"
MAX_REJECTED = 0.01  # share of the rows
LONGEST = 1_000_000  # characters of a text, as of a long novel: more would take memory without a bound


def warn_of_dials(model: str, settings: dict[str, Any]) -> None:
    """Say it where a model answers under another setting than the one that its threshold was found with."""
    from sentimoe.model_folder import COMPRESSED

    usual = beside_model(Path(model), COMPRESSED).get("default_tolerance")
    for name, option in DIALS.items():
        if settings[name] not in (None, usual):
            say(OTHER_DIAL.format(option))
    if settings["long_texts"] == "truncate":
        say(OTHER_DIAL.format("--long-texts truncate"))


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
    part_rows: int | None,
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
    begun = _parts_of(output).is_dir()  # it may have been killed at the very end
    if output.suffix.lower() in FILES and not output.is_dir():
        check_file(output, WRITTEN, overwrite or begun)
        if kind is not None:
            raise Mistake(f"--format is only for a folder; the ending of {output} decides")
    elif output.is_file():
        raise Mistake(f"{output} is a file; give a folder, or a name that ends in {', '.join(WRITTEN)}")
    else:
        check_folder(output)
    check_data(*(each for each in inputs if not glob.has_magic(each)))
    if doubtful is not None:
        check_file(doubtful, WRITTEN, overwrite or begun)
        if doubtful.resolve() == output.resolve():
            raise Mistake(f"--output and --doubtful are both {output}; give two files")
    from sentimoe.batch import Cluster, Job, Predictor, run
    from sentimoe.batch.job import PART_ROWS
    from sentimoe.batch.journal import is_done
    from sentimoe.batch.review import doubtful_rows
    from sentimoe.data import write_table
    from sentimoe.errors import ConfigError
    from sentimoe.model_folder import find_folder
    from sentimoe.records import writes

    from .certificates import certificate_for, warn_of_layers
    from .models import usual_format
    from .show import prepare_process

    if begun and not overwrite and doubtful is not None and not is_done(_parts_of(output)):
        check_file(doubtful, WRITTEN, False)  # this job has not written one yet
    prepare_process()
    model = str(find_folder(model))
    how = {"trust_remote_code": trust_remote_code, "verify": verify}
    own: dict[str, Any] = {
        "max_characters": max_characters or LONGEST,
        "all_answers": all_answers,
        "probabilities": probabilities,
    }
    decide = settings | own

    where = None if cluster is None else Cluster(**cluster)
    made: list[Predictor] = []

    def make(column: str) -> Predictor:
        predictor = Predictor(model, text_column=column, **own, **settings, **how)
        if predictor.threshold is not None:
            warn_of_dials(model, settings)
        if predictor.threshold is None and doubtful is not None:
            raise ConfigError(NO_THRESHOLD.format(model))
        made.append(predictor)
        return predictor

    job = Job(
        inputs,
        output,
        kind,
        text_column,
        usual_format(model, encoding, delimiter),
        limit,
        max_rejected,
        part_rows or PART_ROWS,
        overwrite,
    )
    if dry_run:
        say_what_it_takes(job, make, cluster is not None)
        return
    certificate = certificate_for(model, settings["max_disagreement"], settings["precision"], settings["long_texts"])
    queued: list[str] = []

    def review(output: Path) -> None:
        if doubtful is not None:
            queue = doubtful_rows(output, made[0].numbers)
            with writes(doubtful):
                write_table(queue, doubtful, overwrite or begun)
            queued.append(f"{len(queue):,} of them are doubtful, and written to {doubtful} too")

    with stopped_by_signals("sentimoe"), _progress() as progress:
        report = run(job, make, decide, progress, where, review)
    if certificate is not None and report.layers:
        warn_of_layers(certificate, report.layers)
    for line in (*told(report, output, made[0].engine.max_length), *queued):
        say(line)


def _parts_of(output: Path) -> Path:
    """The folder that holds the parts of one file until it is done."""
    absolute = Path(os.path.abspath(output))  # `.` has no name
    return absolute.parent / f"{absolute.name}.partial"


def told(report: Report, output: Path, max_length: int) -> list[str]:
    """What became of the rows. max_length: tokens that the model reads."""
    lines = [f"{report.rows:,} row{'s' * (report.rows != 1)} written to {output}: {report.scored:,} have a label"]
    if report.reasons:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in report.reasons.most_common())
        lines[0] += f"; without one: {counts}"
    if report.truncated:
        lines.append(f"warning: {report.truncated:,} texts were cut at {max_length} tokens")
    if report.halved:
        lines.append(
            f"warning: memory ran out or a process died {report.halved:,} times, and smaller batches were read: the last "
            "digits of a score may differ from those of another run"
        )
    if report.replaced:
        counts = ", ".join(f"{count:,} in {visible(name)}" for name, count in report.replaced.most_common())
        lines.append(
            f"warning: cells of the input outside the texts hold bytes that are no character ({counts}); U+FFFD replaces them"
        )
    if report.places:
        lines.append(f"first rejected rows: {'; '.join(report.places)}")
    if report.resumed:
        lines.append(f"{report.resumed:,} of them were finished before")
    return lines


def say_what_it_takes(job: Any, make: Any, cluster: bool) -> None:
    """Label the first rows, and say what was found and what the whole takes. cluster: it is for Ray."""
    import pandas as pd

    from sentimoe.batch.files import KINDS
    from sentimoe.batch.inputs import column_of_texts, input_files, looked_at, parts

    files = input_files(job.inputs, (job.output, _parts_of(job.output)))
    with lasting(READING):
        sources = looked_at(files, job.file_format, job.text_column)
    for source in sources:
        form = f", delimiter {source.delimiter!r}" if source.delimiter else ""
        say(f"{source.path}: {source.size / 1e6:.1f} MB{form}{f', {source.encoding}' if source.encoding else ''}")
    column = column_of_texts(sources, job.text_column, job.file_format.columns[0])
    say(f"columns: {', '.join(sources[0].columns)}; the texts are in {column!r}")
    empty = pd.DataFrame(columns=list(sources[0].columns), dtype=object)
    frame = next(parts(sources, DRY_ROWS, min(DRY_ROWS, job.limit or DRY_ROWS)), empty)
    predictor = make(column)
    predictor.labelled(frame.head(64))  # warm
    started = time.monotonic()
    labelled = predictor.labelled(frame)
    seconds = max(time.monotonic() - started, 1e-9)
    say(f"{len(frame):,} rows read: {len(frame) / seconds:.0f} rows/s")
    if cluster:
        say("this was measured in one process, without Ray")
    single = job.output.suffix.lower().removeprefix(".")
    own = sources[0].kind.removeprefix(".")
    kind = job.kind or next((each for each in (single, own) if each in KINDS), "csv")
    total = sum(source.rows for source in sources)
    rows = min(total, job.limit or total)
    disk = rows / max(len(frame), 1) * _bytes_of(labelled, kind) / 1e9
    room = f"{disk:.2g} GB of disk" + (", and as much again until its parts are joined" if single in KINDS else "")
    say(f"{rows:,} rows in all: {rows * seconds / max(len(frame), 1) / 3600:.2g} hours, {room}")


def _bytes_of(frame: Any, kind: str) -> int:
    """Of a table in a file of that kind."""
    from sentimoe.data import write_table

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{kind}"
        write_table(frame, path)
        return path.stat().st_size


def check_lines(text_column: str | None, delimiter: str | None, encoding: str | None) -> None:
    """Raises Mistake where standard input cannot be read as lines of text, and ConfigError for an unknown encoding."""
    if sys.stdin is None:
        raise Mistake("standard input is closed; give texts as arguments, or --input FILE")
    if text_column or delimiter:
        name = "--text-column" if text_column else "--delimiter"
        raise Mistake(f"{name} is of files with columns; each line of standard input is a text. Add --input FILE")
    if encoding is not None:
        from sentimoe.data.decoding import check_encoding

        check_encoding(encoding)


def invite() -> None:
    """Tell a person at a terminal that texts are waited for."""
    if sys.stdin.isatty():
        say("reading texts, one per line; end with Ctrl-D")


@contextmanager
def lines_as_file(stream: IO[bytes], encoding: str | None) -> Iterator[Path]:
    """Lines of texts as a JSONL file for as long as it is needed: a job looks at its input before it reads it.

    encoding: None: UTF-8. Bytes that are none of its characters are marked, so that their rows are rejected.
    """
    import sentimoe.data.characters  # noqa: F401 - registers how bytes are marked

    invite()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "standard-input.jsonl"
        try:
            with stopped_by_signals("sentimoe"), path.open("wb") as file:
                lines = TextIOWrapper(stream, encoding or "utf-8", "sentimoe_mark", newline="\n")
                for number, line in enumerate(lines):
                    text = line.removesuffix("\n").removesuffix("\r")
                    text = text.removeprefix("\ufeff") if number == 0 else text
                    record = json.dumps({"text": text}, ensure_ascii=False)
                    file.write(record.encode() + b"\n")
                lines.detach()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                error.filename = tempfile.gettempdir()  # which $TMPDIR sets
            raise
        yield path


@contextmanager
def _progress() -> Iterator[Callable[[Report, int], None]]:
    """Shows the rows that are done: a bar on a terminal, else a line every 30 seconds, so that a log shows life.

    Before the first call the input is read, and after the last one what was written is made ready.
    """
    with ExitStack() as stack, ExitStack() as reading:
        reading.enter_context(lasting(READING))
        update: Update | None = None
        done = 0

        def progress(report: Report, total: int) -> None:
            nonlocal update, done
            if update is None:
                reading.close()
                doing = "finishing" if report.rows == total else "resuming" if report.rows else "labelling"
                update, done = stack.enter_context(counted(total, doing, report.rows)), report.rows
                return
            rejected = f", {report.rejected:,} rejected" if report.rejected else ""
            update(report.rows - done, ("finishing" if report.rows == total else "labelling") + rejected)
            done = report.rows

        yield progress
