"""A bulk job: rows in, labelled rows out, in parts. Each part is finished once and for all.

A part is read, answered, written aside, synced, renamed, and entered in a journal. A job that was killed goes on after
its last part when it is given again; since a part is answered by itself, the output is then byte for byte what an
undisturbed job writes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.reading import FOUND_OUT, FileFormat
from ..data.streaming import Source, without_rows
from ..errors import ConfigError
from ..machine import hardware, versions
from ..manifest import sha256
from ..records import remove_asides, writes
from .cluster import Cluster
from .files import KINDS, join
from .folder import locked, opened, remove_parts, try_writing
from .inputs import column_of_texts, input_files, looked_at, parts
from .predictor import Predictor
from .report import Report
from .running import Progress, Run
from .schemas import check_one_type

PART_ROWS = 16_384
WRITERS = ("tokenizers", "pandas", "pyarrow")  # decide bytes, too


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
    then: Callable[[Path], None] = lambda output: None,
) -> Report:
    """Do a job, or what is left of it.

    make: from the column of the texts to what labels them; the inputs are looked at before. settings: what else
    decides an answer, for the journal. progress: is told of the rows before the work, and after each part. cluster:
    None: this process does it all. then: is given the whole output; where that fails, the same job goes on with it.

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
    with locked(folder, job.output):
        if single:
            with writes(output):
                remove_asides(output)  # in the model's folder they would count as files of the model
        predictor = make(column)
        with writes(folder):
            first = next(parts(sources, job.part_rows, job.limit), None)
            try_writing(folder, kind, None if first is None else predictor.made_up(first))
            model = predictor.hashes((output, folder))
            about = _about(job, sources, column, kind, predictor, model, settings, cluster)
            replaced = next((source.sha256 for source in sources if source.path.resolve() == output.resolve()), None)
            journal = opened(folder, about, job.overwrite, replaced)
        if in_the_way and journal.joined is None:  # it is not what this job made
            raise there
        report = Run(
            sources, kind, predictor, journal, progress, cluster,
            rows=job.part_rows, limit=job.limit, max_rejected=job.max_rejected, written=(output, folder),
        ).finished(empty)  # fmt: skip
        if single:
            with writes(output):
                if journal.joined is None or not output.exists() or sha256(output) != journal.joined:
                    listed = [folder / part["file"] for part in journal.parts]
                    join(listed, output, predictor.labelled(empty), job.overwrite, journal.join)
        then(output)
        with writes(output):
            if single:
                remove_parts(folder)
            else:
                journal.close()
    report.seconds = time.monotonic() - started
    return report


def _kind(job: Job, sources: Sequence[Source]) -> str:
    own = sources[0].kind.removeprefix(".")
    return job.kind or (own if own in KINDS else "csv")


def _about(
    job: Job,
    sources: Sequence[Source],
    column: str,
    kind: str,
    predictor: Predictor,
    model: dict[str, str],
    settings: dict[str, Any],
    cluster: Cluster | None,
) -> dict[str, Any]:
    """What decides every byte of the output."""
    here = hardware() | ({} if cluster is None else {"threads": 1})
    packages = versions(*WRITERS, *(["openvino"] if predictor.uses_openvino else []))
    return {
        "inputs": [{"file": source.path.name, "sha256": source.sha256, "size": source.size} for source in sources],
        "reading": [{"encoding": source.encoding, "delimiter": source.delimiter} for source in sources],
        "model": model,
        "text_column": column,
        "kind": kind,
        "part_rows": job.part_rows,
        "limit": job.limit,
        "settings": settings,
        "versions": packages,
        "engine": "local" if cluster is None else "ray, on GPUs" if cluster.gpus else "ray",
        "machine": {name: here[name] for name in ("processor", "model", "bfloat16", "threads", "gpu")},
    }
