"""A bulk job: rows in, labelled rows out, in parts. Each part is finished once and for all.

A part is read, answered, written aside, synced, renamed, and entered in a journal. A job that was killed goes on after
its last part when it is given again; since a part is answered by itself, the output is then byte for byte what an
undisturbed job writes.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from ..data.reading import FOUND_OUT, FileFormat
from ..data.rows import find_column
from ..data.streaming import Source
from ..errors import ConfigError, RejectedError
from ..manifest import sha256
from ..training import hardware, versions, writes
from .files import KINDS, join, part_name, write_part
from .inputs import input_files, looked_at, parts
from .journal import JOURNAL, Journal
from .predictor import REJECTED, Predictor

PART_ROWS = 16_384
PLACES = 10  # of rejected rows that are shown
LEAST_ROWS = 1000  # before a share of rejected rows ends a job
Progress = Callable[[int, int], None]  # rows done now, and rejected ones among them
Item = TypeVar("Item")


@dataclass(frozen=True)
class Job:
    """What is to be done.

    inputs: files, folders, patterns. output: a file that ends in .csv, .jsonl or .parquet, or a folder for the parts.
    kind: of the parts in a folder, without the dot; None: that of the first input. text_column: None: found as
    `find_column` finds it. limit: rows. max_rejected: the share of rows that may be rejected.
    """

    inputs: Sequence[str | Path]
    output: Path
    kind: str | None = None
    text_column: str | None = None
    file_format: FileFormat = FOUND_OUT
    limit: int | None = None
    max_rejected: float = 0.01
    part_rows: int = PART_ROWS
    overwrite: bool = False


@dataclass
class Report:
    """What became of the rows: `rows` is the sum of `scored`, `blank`, `doubtful` and `rejected`.

    reasons: how often each. places: of the first rejected rows, counted from 1 over all inputs. resumed: rows that
    were finished before. layers: how many texts were read by how many layers, where that differs. truncated: texts
    whose end was not read.
    """

    rows: int = 0
    scored: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    places: list[str] = field(default_factory=list)
    resumed: int = 0
    layers: Counter[int] = field(default_factory=Counter)
    truncated: int = 0
    seconds: float = 0.0

    @property
    def rejected(self) -> int:
        """Rows that could not be read."""
        return sum(self.reasons[reason] for reason in REJECTED)

    def add(self, part: dict[str, Any]) -> None:
        """Count a part, as the journal has it."""
        self.rows += part["rows"]
        self.scored += part["scored"]
        self.reasons += Counter(part["reasons"])
        self.places += part["places"][: PLACES - len(self.places)]
        self.truncated += part["truncated"]
        self.layers += Counter({int(layers): count for layers, count in part["layers"].items()})


def run(job: Job, make: Callable[[str], Predictor], settings: dict[str, Any], progress: Progress) -> Report:
    """Do a job, or what is left of it.

    make: from the column of the texts to what labels them; the inputs are looked at before. settings: what else
    decides an answer, for the journal. progress: is told of each part.

    Raises:
        ConfigError: the output holds another job, or another process works on it.
        DataError: an input that cannot be read, or no column of texts.
        RejectedError: more rows were rejected than allowed. What is finished stays.
        StoppedError: the output cannot be written, because the disk is full for example. The same job goes on.
    """
    started = time.monotonic()
    sources = looked_at(input_files(job.inputs), job.file_format)
    single = job.output.suffix.lower().removeprefix(".") in KINDS
    folder = job.output.with_name(f"{job.output.name}.partial") if single else job.output
    kind = job.output.suffix.lower().removeprefix(".") if single else _kind(job, sources)
    first = pd.DataFrame(columns=list(sources[0].columns))
    column = find_column(first, str(sources[0].path), job.text_column, "text")
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)
    try:
        with lock:
            predictor = make(column)
            with writes(job.output):
                _try_writing(job, sources, column, kind, predictor)
            with writes(folder):
                journal = _journal(folder, _about(job, sources, column, kind, predictor, settings), job.overwrite)
            report = _Run(job, sources, column, kind, predictor, journal, progress).finished()
            if single:
                with writes(job.output):
                    files = [folder / part["file"] for part in journal.parts]
                    join(files, job.output, predictor.labelled(first.astype(object)), job.overwrite)
                    shutil.rmtree(folder)
    except Timeout as error:
        raise ConfigError(f"another process is writing {job.output}; wait for its end or choose another") from error
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
    report.seconds = time.monotonic() - started
    return report


class _Run:
    """The parts of a job that are left, read and written in threads of their own while the model answers."""

    def __init__(
        self,
        job: Job,
        sources: Sequence[Source],
        column: str,
        kind: str,
        predictor: Predictor,
        journal: Journal,
        progress: Progress,
    ):
        self.job, self.sources, self.column, self.kind = job, sources, column, kind
        self.predictor, self.journal, self.progress = predictor, journal, progress
        self.report = Report()
        for part in journal.parts:
            self.report.add(part)
        self.report.resumed = self.report.rows

    def finished(self) -> Report:
        """Do what is left."""
        if self.journal.done is not None:
            return self.report
        if self.report.rows:
            self.progress(self.report.rows, self.report.rejected)
        left = parts(self.sources, self.column, self.job.part_rows, self.job.limit)
        known = len(self.journal.parts)
        with ThreadPoolExecutor(1) as pool:
            written: Future[None] | None = None
            for number, frame in enumerate(read_ahead(left)):
                if number < known:
                    continue
                labelled = self.predictor.labelled(frame)
                if written is not None:
                    written.result()
                entry = self._entry(number, frame, labelled)
                written = pool.submit(self._write, labelled, entry)
                self.report.add(entry)
                self.progress(entry["rows"], sum(entry["reasons"].get(reason, 0) for reason in REJECTED))
                self._check_rejected(LEAST_ROWS, written)
            if written is not None:
                written.result()
        self._check_rejected(0, None)
        with writes(self.journal.folder):
            self.journal.finish({"rows": self.report.rows})
        return self.report

    def _entry(self, number: int, frame: pd.DataFrame, labelled: pd.DataFrame) -> dict[str, Any]:
        """What the journal says of a part."""
        reasons = [None if pd.isna(reason) else reason for reason in labelled["reason"]]
        start = self.report.rows
        bad = [(row, reason) for row, reason in enumerate(reasons) if reason in REJECTED]
        layers = labelled["layers"].tolist() if self.predictor.counts_layers else []
        return {
            "part": number,
            "file": part_name(number, self.kind),
            "start": start,
            "rows": len(frame),
            "scored": reasons.count(None),
            "reasons": Counter(reason for reason in reasons if reason is not None),
            "places": [f"row {start + row + 1}: {reason}" for row, reason in bad[:PLACES]],
            "truncated": int(labelled["truncated"].sum()) if self.predictor.marks_cuts else 0,
            "layers": Counter(str(each) for each in layers if each),
        }

    def _write(self, labelled: pd.DataFrame, entry: dict[str, Any]) -> None:
        folder = self.journal.folder
        first = folder / part_name(0, self.kind)
        with writes(folder):
            schema = pq.read_schema(first) if self.kind == "parquet" and entry["part"] else None
            write_part(labelled, folder / entry["file"], schema)
            self.journal.add(entry | {"sha256": sha256(folder / entry["file"])})

    def _check_rejected(self, least: int, written: Future[None] | None) -> None:
        found = self.report
        if found.rows < least or found.rejected <= self.job.max_rejected * found.rows:
            return
        if written is not None:
            written.result()
        raise RejectedError(
            f"{found.rejected:,} of {found.rows:,} rows were rejected, more than {self.job.max_rejected:.2%}: "
            f"{'; '.join(found.places)}. Mend the input, or allow more with --max-rejected: then the same command goes "
            "on"
        )


def read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each read in a thread of its own while the caller works on the one before."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def _kind(job: Job, sources: Sequence[Source]) -> str:
    own = sources[0].kind.removeprefix(".")
    return job.kind or (own if own in KINDS else "csv")


def _about(
    job: Job, sources: Sequence[Source], column: str, kind: str, predictor: Predictor, settings: dict[str, Any]
) -> dict[str, Any]:
    """What decides every byte of the output."""
    here = hardware()
    return {
        "inputs": [{"file": source.path.name, "sha256": source.sha256, "size": source.size} for source in sources],
        "reading": [{"encoding": source.encoding, "delimiter": source.delimiter} for source in sources],
        "model": {path.name: sha256(path) for path in sorted(predictor.folder.rglob("*")) if path.is_file()},
        "text_column": column,
        "kind": kind,
        "part_rows": job.part_rows,
        "limit": job.limit,
        "settings": settings,
        "versions": versions(),
        "machine": {name: here[name] for name in ("processor", "bfloat16", "threads")},
    }


def _journal(folder: Path, about: dict[str, Any], overwrite: bool) -> Journal:
    """The journal of the folder. overwrite: another job's, a finished one's and a damaged one's are begun anew."""
    try:
        journal = Journal(folder, about)
        _sweep(journal)
        if journal.done is None or not overwrite:
            return journal
    except ConfigError:
        if not overwrite or not (folder / JOURNAL).exists():
            raise
    _remove(folder)
    return Journal(folder, about)


def _try_writing(job: Job, sources: Sequence[Source], column: str, kind: str, predictor: Predictor) -> None:
    """Write the first part with made-up answers, before the model has read anything, and remove it.

    Raises what writing it would raise after the work.
    """
    first = next(parts(sources, column, job.part_rows, job.limit), None)
    if first is None:
        return
    folder = job.output.parent if job.output.parent.is_dir() else None
    with tempfile.NamedTemporaryFile(dir=folder, prefix="trial-", suffix=f".{kind}") as trial:
        write_part(predictor.made_up(first), Path(trial.name), None)


def _sweep(journal: Journal) -> None:
    """Remove what a killed process left: parts that the journal does not list, and files that were written aside.

    Raises ConfigError for a listed part that is not there as it was written.
    """
    listed = {part["file"]: part["sha256"] for part in journal.parts}
    for name, digest in listed.items():
        path = journal.folder / name
        if not path.is_file() or sha256(path) != digest:
            raise ConfigError(f"{path} is missing or was changed; add --overwrite to begin anew")
    for path in journal.folder.iterdir():
        ours = path.name.startswith(("part-", JOURNAL))
        if ours and path.name not in {JOURNAL, *listed}:
            path.unlink()


def _remove(folder: Path) -> None:
    """Remove the parts and the journal of a job, and nothing else."""
    for path in folder.iterdir():
        if path.name.startswith(("part-", JOURNAL)):
            path.unlink()
