"""A model folder is saved whole or not at all, with its manifest, and nothing of an earlier model stays in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..manifest import MANIFEST, write_manifest
from ..records import made_aside, native_writers, sync, with_umask
from .files import BASE, DECISIVE, SEEN, THRESHOLD
from .quiet import quietly

ASIDE = ".saving-"  # begins the name of a folder that a killed save may leave
SHARDS = "model-*-of-*.safetensors"
MODEL_CARD = ".md"  # anyone may edit it: no manifest lists it


@contextmanager
def saved_whole(folder: Path) -> Iterator[Path]:
    """An empty folder to save a model in, which becomes `folder` when the block ends without an error.

    Files of the model that was in `folder` are replaced or removed; all others stay. When the block raises, `folder` is
    left as it was; what the system refused is OSError. A process that is killed while files change places leaves a
    folder that its manifest refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{ASIDE}*"):
        shutil.rmtree(left)
    aside = made_aside(folder, ASIDE)
    try:
        with native_writers(), quietly():
            yield aside
        if (aside / BASE).is_dir():
            write_manifest(aside / BASE, _listed(aside / BASE))
        write_manifest(
            aside, [name for name in _listed(aside) if not name.startswith(f"{BASE}/")] + _manifest_of(aside)
        )
        with_umask(aside)
        for path in aside.rglob("*"):
            sync(path)
        _replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _listed(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != MODEL_CARD]
    return [path.relative_to(folder).as_posix() for path in files]


def _manifest_of(aside: Path) -> list[str]:
    """The manifest of the base, through which the manifest of an adapter vouches for it."""
    return [f"{BASE}/{MANIFEST}"] if (aside / BASE).is_dir() else []


def _replace(aside: Path, folder: Path) -> None:
    """Move what was saved into the folder, manifests first, and remove what the saved model does not have."""
    files = [path.relative_to(aside) for path in aside.rglob("*") if path.is_file()]
    for name in sorted(files, key=lambda name: (name.name != MANIFEST, name)):
        (folder / name).parent.mkdir(exist_ok=True)
        os.replace(aside / name, folder / name)
    for place in (folder, folder / BASE):
        stale = [place / name for name in (*DECISIVE, THRESHOLD, SEEN) if name != BASE] + list(place.glob(SHARDS))
        for path in stale:
            if path.relative_to(folder) not in files:
                path.unlink(missing_ok=True)
        if place.is_dir():
            sync(place)
