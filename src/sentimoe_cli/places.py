"""Where a command will write, looked at before it starts: nothing heavy is imported to say no."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from sentimoe_ready import HUB_ID, ready_models

from .messages import Mistake

WRITTEN = (".csv", ".jsonl", ".parquet", ".xlsx")
FILE = re.compile(r"\.(csv|tsv|jsonl?|parquet|xlsx?|ods)(\.gz|\.zst)?$", re.IGNORECASE)


def check_file(path: Path, suffixes: tuple[str, ...] = (), overwrite: bool = True) -> None:
    """Raise Mistake when a file cannot be written there, or exists and is not to be replaced."""
    if path.is_dir():
        raise Mistake(f"{path} is a folder; give the name of a file")
    if suffixes and path.suffix.lower() not in suffixes:
        raise Mistake(f"{path} must end in {', '.join(suffixes)}")
    if path.exists() and not path.is_file():
        raise Mistake(f"{path} is no regular file and cannot be replaced; give another one")
    if path.exists() and not overwrite:
        raise Mistake(f"{path} exists; choose another file or add --overwrite")
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise Mistake(f"{path} cannot be written: there is no folder {path.parent}; make it first")
    _check_writable(path, folder)


def check_folder(path: Path) -> None:
    """Raise Mistake when a folder cannot be made, or written to, there."""
    there = Path(os.path.realpath(path))
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise Mistake(f"{path} cannot be a folder: {there} is a file; give another folder")
    _check_writable(path, there)


def check_model(*names: Path | str | None) -> None:
    """Raise Mistake for what is no folder, no ready model and no hub id; they are looked at when they are loaded."""
    for name in names:
        if name is None or Path(name).is_dir() or str(name) in ready_models() or HUB_ID.fullmatch(str(name)):
            continue
        raise Mistake(
            f"{name} is not a trained model (it has no config.json); give the folder of a run, a ready model "
            f"({', '.join(ready_models())}) or a hub id"
        )


def check_data(*sources: Path | str | None) -> None:
    """Raise Mistake when a data file is not there; a preset, a folder or a hub id is looked for when it is loaded."""
    for source in sources:
        if source is None or not FILE.search(str(source)):
            continue
        if not Path(os.path.expanduser(source)).exists():
            raise Mistake(f"{source}: no such file; check the path")


def check_standard_output() -> None:
    """Raise Mistake when standard output is closed, so that the answer would go nowhere."""
    if sys.stdout is None:
        raise Mistake("standard output is closed, and that is where the answer goes; open it")


def _check_writable(path: Path, folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Mistake(f"{path} cannot be written: you may not write to {folder}; give another place")
