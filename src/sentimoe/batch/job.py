"""A bulk job: rows in, labelled rows out, in parts. Each part is finished once and for all.

A part is read, answered, written aside, synced, renamed, and entered in a journal. A job that was killed goes on after
its last part when it is given again; since a part is answered by itself, the output is then byte for byte what an
undisturbed job writes.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pandas as pd
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from ..data.reading import FOUND_OUT, FileFormat
from ..data.streaming import Source, without_rows
from ..errors import ConfigError, RejectedError
from ..inference import return_freed_memory
from ..machine import hardware, versions
from ..manifest import sha256
from ..records import sync, writes
from .cluster import Cluster
from .files import KINDS, join, part_name, write_part
from .inputs import column_of_texts, input_files, looked_at, parts
from .journal import JOURNAL, Journal
from .predictor import HALVED, REJECTED, Predictor
from .report import PLACES, Report
from .schemas import check_one_type

LOCK, TRIAL = ".lock", ".trial-"
OURS = re.compile(rf"part-\d{{5,}}\.({'|'.join(KINDS)})(\.\w+\.partial)?|{JOURNAL}(\.\w+\.partial)?")
PART_ROWS = 16_384
WRITERS = ("tokenizers", "pandas", "pyarrow")  # decide bytes, too
LEAST_ROWS = 1000  # before a share of rejected rows ends a job
Progress = Callable[[Report, int], None]  # what has become of the rows so far, and how many there are in all
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


def run(
    job: Job,
    make: Callable[[str], Predictor],
    settings: dict[str, Any],
    progress: Progress,
    cluster: Cluster | None = None,
) -> Report:
    """Do a job, or what is left of it.

    make: from the column of the texts to what labels them; the inputs are looked at before. settings: what else
    decides an answer, for the journal. progress: is told of the rows before the work, and after each part. cluster:
    None: this process does it all.

    Raises:
        ConfigError: the output exists, holds another job, or another process works on it.
        DataError: an input that cannot be read, or no column of texts.
        RejectedError: more rows were rejected than allowed. What is finished stays.
        StoppedError: the output cannot be written, because the disk is full for example. The same job goes on.
    """
    started = time.monotonic()
    output = Path(os.path.abspath(job.output))
    single = output.suffix.lower().removeprefix(".") in KINDS and not output.is_dir()
    folder = output.with_name(f"{output.name}.partial") if single else output
    files = input_files(job.inputs, (output, folder))
    sources = looked_at(files, job.file_format, job.text_column)
    kind = output.suffix.lower().removeprefix(".") if single else _kind(job, sources)
    if kind == "parquet":
        check_one_type(sources)
    column = column_of_texts(sources, job.text_column, job.file_format.columns[0])
    empty = without_rows(sources[0])
    in_the_way = single and output.exists() and not job.overwrite
    there = ConfigError(f"{job.output} exists; choose another file or set overwrite")
    if in_the_way and not folder.is_dir():
        raise there
    with _locked(folder, job.output):
        predictor = make(column)
        with writes(folder):
            _try_writing(job, sources, folder, kind, predictor)
            about = _about(job, sources, column, kind, predictor, settings, cluster)
            journal = _journal(folder, about, job.overwrite, finished_too=not single)
        if in_the_way and journal.joined is None:  # it is not what this job made
            raise there
        report = _Run(job, sources, kind, predictor, journal, progress, cluster).finished(empty)
        if single:
            with writes(output):
                if journal.joined is None or not output.exists() or sha256(output) != journal.joined:
                    listed = [folder / part["file"] for part in journal.parts]
                    join(listed, output, predictor.labelled(empty), job.overwrite, journal.join)
                folder.rename(_left_over(folder, uuid4().hex))  # at once, unlike a removal
                for done in folder.parent.glob(_left_over(Path(glob.escape(folder.name)), "*").name):
                    shutil.rmtree(done)
    report.seconds = time.monotonic() - started
    return report


def _left_over(folder: Path, ending: str) -> Path:
    """What the folder of the parts is called while it is removed."""
    return folder.with_name(f".{folder.name}-{ending}")


@contextmanager
def _locked(folder: Path, output: Path) -> Iterator[None]:
    """The folder of the parts for one process alone. It goes again if the job does not begin.

    Raises ConfigError where another process is at it, and what `writes` raises.
    """
    with writes(folder):
        folder.mkdir(parents=True, exist_ok=True)
        sync(folder.parent)
    try:
        with FileLock(folder / LOCK, timeout=0):
            try:
                yield
            finally:
                if folder.is_dir() and [path.name for path in folder.iterdir()] == [LOCK]:
                    shutil.rmtree(folder)
    except Timeout as error:
        raise ConfigError(f"another process is writing {output}; wait for its end or choose another") from error


class _Run:
    """The parts of a job that are left, read and written in threads of their own while the model answers."""

    def __init__(
        self,
        job: Job,
        sources: Sequence[Source],
        kind: str,
        predictor: Predictor,
        journal: Journal,
        progress: Progress,
        cluster: Cluster | None,
    ):
        self.job, self.sources, self.kind = job, sources, kind
        self.predictor, self.journal, self.progress, self.cluster = predictor, journal, progress, cluster
        self.report = Report()
        for part in journal.parts:
            self.report.add(part)
        self.report.resumed = self.report.rows
        self.total = sum(source.rows for source in sources)
        self.total = min(self.total, job.limit or self.total)
        for source in sources:
            self.report.replaced += source.undecodable
        del self.report.replaced[predictor.text_column]  # such rows are rejected, each with its reason

    def finished(self, empty: pd.DataFrame) -> Report:
        """Do what is left. empty: a part without rows, for a job that has none."""
        if self.journal.done is not None:
            return self.report
        self.progress(self.report, self.total)
        self._check_rejected(LEAST_ROWS, None)
        with ThreadPoolExecutor(1) as pool, closing(self._labelled()) as left:
            written: Future[None] | None = None
            for number, labelled in enumerate(left, len(self.journal.parts)):
                if written is not None:
                    written.result()
                entry = self._entry(number, labelled)
                written = pool.submit(self._write, labelled, entry)
                self.report.add(entry)
                self.progress(self.report, self.total)
                self._check_rejected(LEAST_ROWS, written)
            if written is not None:
                written.result()
        self._check_rejected(0, None)
        for source in self.sources:
            source.check_unchanged()
        if not self.journal.parts:
            labelled = self.predictor.labelled(empty)
            self._write(labelled, self._entry(0, labelled))
        with writes(self.journal.folder):
            self.journal.finish({"rows": self.report.rows})
        return self.report

    def _labelled(self) -> Generator[pd.DataFrame, None, None]:
        """The labelled parts that are left."""
        rows, limit, done = self.job.part_rows, self.job.limit, len(self.journal.parts)
        if self.cluster is not None:
            from .on_ray import labelled_on_ray

            yield from labelled_on_ray(self.cluster, self.predictor, self.sources, rows, limit, done)
        else:
            left = islice(parts(self.sources, rows, limit), done, None)
            for frame in read_ahead(left):
                yield self.predictor.labelled(frame)
                return_freed_memory()  # batches of ever new sizes leave holes that nothing fits into

    def _entry(self, number: int, labelled: pd.DataFrame) -> dict[str, Any]:
        """What the journal says of a part."""
        reasons = [None if pd.isna(reason) else reason for reason in labelled["reason"]]
        start = self.report.rows
        bad = [(row, reason) for row, reason in enumerate(reasons) if reason in REJECTED]
        layers = labelled["layers"].tolist() if self.predictor.counts_layers else []
        return {
            "part": number,
            "file": part_name(number, self.kind),
            "start": start,
            "rows": len(labelled),
            "scored": reasons.count(None),
            "reasons": Counter(reason for reason in reasons if reason is not None),
            "places": [f"{self._place(start + row)}: {reason}" for row, reason in bad[:PLACES]],
            "truncated": int(labelled["truncated"].sum()) if self.predictor.marks_cuts else 0,
            "halved": labelled.attrs.get(HALVED, 0),
            "layers": Counter(str(each) for each in layers if each),
        }

    def _place(self, row: int) -> str:
        """A row of all inputs, counted from 0, as the row of its file, counted from 1."""
        if len(self.sources) == 1:
            return f"row {row + 1}"
        for source in self.sources:
            if row < source.rows:
                break
            row -= source.rows
        return f"{source.path} row {row + 1}"

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
            f"{'; '.join(found.places)}. Allow more with --max-rejected, and the same command goes on; or correct the "
            "input and begin anew with --overwrite"
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
    job: Job,
    sources: Sequence[Source],
    column: str,
    kind: str,
    predictor: Predictor,
    settings: dict[str, Any],
    cluster: Cluster | None,
) -> dict[str, Any]:
    """What decides every byte of the output."""
    here = hardware() | ({} if cluster is None else {"threads": 1})
    packages = versions(*WRITERS, *(["openvino"] if predictor.uses_openvino else []))
    return {
        "inputs": [{"file": source.path.name, "sha256": source.sha256, "size": source.size} for source in sources],
        "reading": [{"encoding": source.encoding, "delimiter": source.delimiter} for source in sources],
        "model": predictor.hashes(),
        "text_column": column,
        "kind": kind,
        "part_rows": job.part_rows,
        "limit": job.limit,
        "settings": settings,
        "versions": packages,
        "engine": "local" if cluster is None else "ray",
        "machine": {name: here[name] for name in ("processor", "bfloat16", "threads", "gpu")},
    }


def _journal(folder: Path, about: dict[str, Any], overwrite: bool, finished_too: bool) -> Journal:
    """The journal of the folder. overwrite: begin another job's or a damaged one anew, and a finished one if asked."""
    try:
        journal = Journal(folder, about)
        _sweep(journal)
        if journal.done is None or not (overwrite and finished_too):
            return journal
    except ConfigError:
        if not overwrite or not all(_is_ours(path) for path in folder.iterdir()):
            raise
    _remove(folder)
    return Journal(folder, about)


def _try_writing(job: Job, sources: Sequence[Source], folder: Path, kind: str, predictor: Predictor) -> None:
    """Write the first part with made-up answers, before the model has read anything, and remove it.

    Raises what writing it would raise after the work.
    """
    first = next(parts(sources, job.part_rows, job.limit), None)
    if first is not None:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=TRIAL, suffix=f".{kind}") as trial:
            write_part(predictor.made_up(first), Path(trial.name), None)


def _is_ours(path: Path) -> bool:
    """Whether a file in the folder of the parts is a part, a journal or the lock, written aside or not."""
    return path.name == LOCK or path.name.startswith(TRIAL) or OURS.fullmatch(path.name) is not None


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
        if _is_ours(path) and path.name not in {JOURNAL, LOCK, *listed}:
            path.unlink()


def _remove(folder: Path) -> None:
    """Remove the parts and then the journal of a job, and nothing else."""
    ours = [path for path in folder.iterdir() if _is_ours(path) and path.name != LOCK]
    for path in sorted(ours, key=lambda path: path.name == JOURNAL):
        path.unlink()
