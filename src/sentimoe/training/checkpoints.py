"""Checkpoints that are whole or not there: written aside, listed with their hashes, synced, renamed, then rotated."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME

from ..errors import ModelFolderError
from ..manifest import MANIFEST, check_manifest, write_manifest
from ..model_folder import quietly
from ..records import native_writers, read_json, sync, with_umask
from .processes import is_first, lost_told, wait

PARTIAL = "partial"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint. best: the step of the best one until then. worse: epochs since it, as early stopping counts.

    epoch: passes over the training texts, with a fraction in the middle of one.
    """

    folder: Path
    epoch: float
    best: int | None
    worse: int


def last_whole(checkpoints: Path) -> Checkpoint | None:
    """The newest checkpoint that is as it was written, and so is the best one that it names; None without one.

    Each that is passed over is told in a warning.
    """
    for folder in newest_first(checkpoints):
        try:
            checkpoint = _read(folder)
            if checkpoint.best is not None:
                _read(place_of(checkpoints, checkpoint.best))
            return checkpoint
        except ModelFolderError as damage:
            logger.warning("checkpoint %s is passed over: %s", folder.name, damage)
    return None


@contextmanager
def written_checkpoint(checkpoints: Path, step: int) -> Iterator[Path]:
    """A folder in which to write `checkpoint-STEP`, which appears among the checkpoints when the block ends well.

    Of several processes all write there, and go on once it has appeared. Raises OSError when it cannot be written; the
    checkpoints before it stay.
    """
    aside, place, first = checkpoints / PARTIAL, place_of(checkpoints, step), is_first()
    if first:
        discard_partial(checkpoints)
    wait()
    try:
        with native_writers(), quietly(), lost_told():
            yield aside
        wait()
        if first:
            _put(aside / place.name, place)
    finally:
        if first:
            discard_partial(checkpoints)
    if first:
        _rotate(checkpoints)
    wait()


def _put(written: Path, place: Path) -> None:
    """Give a folder that is complete its name."""
    files = [path for path in written.rglob("*") if path.is_file() and path.name != MANIFEST]
    write_manifest(written, (str(path.relative_to(written)) for path in files))
    with_umask(written)
    for path in (*written.rglob("*"), written):
        sync(path)
    written.rename(place)
    sync(place.parent)


def discard_partial(checkpoints: Path) -> None:
    """Remove what a process that was killed while it wrote or deleted a checkpoint left."""
    shutil.rmtree(checkpoints / PARTIAL, ignore_errors=True)


def set_aside_newer(checkpoints: Path, than: Checkpoint | None) -> None:
    """Rename the checkpoints that were passed over, so that those of the same steps can be written again."""
    for folder in newest_first(checkpoints):
        if than is None or _step(folder) > _step(than.folder):
            damaged = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(damaged, ignore_errors=True)
            folder.rename(damaged)


def place_of(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return checkpoints / f"checkpoint-{step}"


def newest_first(checkpoints: Path) -> list[Path]:
    """The folders of all checkpoints, damaged or not."""
    return sorted(checkpoints.glob("checkpoint-*"), key=_step, reverse=True)


def _step(folder: Path) -> int:
    return int(folder.name.split("-")[1])


def _read(folder: Path) -> Checkpoint:
    if not check_manifest(folder):
        raise ModelFolderError(f"{folder} lacks {MANIFEST}")
    state = read_json(folder / TRAINER_STATE_NAME)
    stopping = state["stateful_callbacks"].get("EarlyStoppingCallback")  # none where the last epoch counts
    worse = stopping["attributes"]["early_stopping_patience_counter"] if stopping else 0
    return Checkpoint(folder, state["epoch"], state["best_global_step"], worse)


def _rotate(checkpoints: Path) -> None:
    """Keep the newest two, should the newest be damaged, each with the best one that it names."""
    folders = newest_first(checkpoints)
    best = {read_json(folder / TRAINER_STATE_NAME)["best_global_step"] for folder in folders[:2]}
    for folder in folders[2:]:
        if _step(folder) not in best:
            folder.rename(checkpoints / PARTIAL)  # half deleted, it must not look like a checkpoint
            discard_partial(checkpoints)
