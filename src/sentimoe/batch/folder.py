"""The folder of a job's parts: for one process alone, with a journal, and nothing in it that is not listed there."""

from __future__ import annotations

import glob
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
from filelock import FileLock, Timeout

from ..errors import ConfigError
from ..manifest import sha256
from ..records import sync, writes
from .files import KINDS, write_part
from .journal import JOURNAL, Journal

logger = logging.getLogger(__name__)
LOCK, TRIAL = ".lock", ".trial-"
OURS = re.compile(rf"part-\d{{5,}}\.({'|'.join(KINDS)})(\.\w+\.partial)?|{JOURNAL}(\.\w+\.partial)?")


@contextmanager
def locked(folder: Path, output: Path) -> Iterator[None]:
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


def opened(folder: Path, about: dict[str, Any], overwrite: bool, replaced: str | None) -> Journal:
    """The journal of the folder. overwrite: begin another job's or a damaged one anew, and a closed one.

    replaced: as `Journal` takes it.
    """
    try:
        journal = Journal(folder, about, replaced)
        _sweep(journal)
        if not (overwrite and journal.closed):
            return journal
    except ConfigError as error:
        if not overwrite:
            raise
        logger.warning("%s: they are replaced", str(error).partition("; ")[0])
    if others := [path.name for path in folder.iterdir() if not _is_ours(path) and not path.name.startswith(".")]:
        raise ConfigError(
            f"{folder} also holds {min(others)}, which no job wrote there; move it away, or choose another folder"
        )
    _remove(folder)
    return Journal(folder, about)


def try_writing(folder: Path, kind: str, part: pd.DataFrame | None) -> None:
    """Write a part with made-up answers, before the model has read anything, and remove it.

    Raises what writing it would raise after the work.
    """
    if part is not None:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=TRIAL, suffix=f".{kind}") as trial:
            write_part(part, Path(trial.name), None)


def remove_parts(folder: Path) -> None:
    """Remove the folder of a job that has become one file, and what earlier removals left."""
    folder.rename(_left_over(folder, uuid4().hex))  # at once, unlike a removal
    for done in folder.parent.glob(_left_over(Path(glob.escape(folder.name)), "*").name):
        shutil.rmtree(done)


def _left_over(folder: Path, ending: str) -> Path:
    """What the folder of the parts is called while it is removed."""
    return folder.with_name(f".{folder.name}-{ending}")


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
