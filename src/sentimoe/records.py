"""Files that appear whole or not at all: written aside, synced, then renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from .errors import ConfigError, StoppedError

SHOWN = 40  # characters of up to 4 bytes of a file's name in that of its partial one, which has at most 255 bytes


@contextmanager
def written_aside(path: Path, overwrite: bool = True) -> Iterator[Path]:
    """A file path beside `path` to write to, which takes its place when the block ends without an error.

    What was there before stays until then, and stays for good when the block raises. A file that is replaced hands its
    permissions on, a new one has those of the umask, and a link still points to the new file. Several processes may
    write the same file; the last one wins, without `overwrite` the first, and the others get FileExistsError.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f"{target.name[:SHOWN]}.{uuid4().hex}.partial")
    try:
        mode = _mode_of_new(partial)
        yield partial
        if target.exists():
            shutil.copymode(target, partial)
        else:
            partial.chmod(mode)
        sync(partial)
        if overwrite:
            partial.replace(target)
        else:
            _put(partial, target)
        sync(target.parent)
    except OSError as error:
        if error.filename in (None, str(partial)):
            error.filename, error.filename2 = str(path), None  # the file that the caller knows
        raise
    finally:
        partial.unlink(missing_ok=True)


def remove_asides(path: Path) -> None:
    """Remove what processes that were killed left beside a file while they wrote it. None may be writing it now.

    What lies beside a name of more than 40 characters stays: it may belong to another that begins alike.
    """
    goal = Path(os.path.realpath(path))
    aside = re.compile(rf"{re.escape(goal.name)}\.[0-9a-f]{{32}}\.partial")
    for each in goal.parent.iterdir() if len(goal.name) <= SHOWN else ():
        if aside.fullmatch(each.name):
            each.unlink()


@contextmanager
def writes(folder: Path) -> Iterator[None]:
    """Around what writes to a folder. Raises ConfigError where that is not allowed, StoppedError where it fails.

    It may fail because the disk is full, for example.
    """
    try:
        yield
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"{folder} must not be written to ({error}); choose another output") from error
    except OSError as error:
        raise StoppedError(
            f"stopped, because {folder} cannot be written to ({error}); what was saved before is there, and is gone on "
            "from once there is room"
        ) from error


def _put(partial: Path, target: Path) -> None:
    """Give a file its name unless another file has it already. Raises FileExistsError."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: an empty file claims the name
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        partial.replace(target)


def _mode_of_new(path: Path) -> int:
    """The permissions that the umask gives a new file there; no other way to ask for the umask leaves it alone."""
    path.touch(exist_ok=False)
    mode = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    return mode


def made_aside(folder: Path, prefix: str) -> Path:
    """A new folder in `folder`, with the permissions of the umask, unlike those of `tempfile`."""
    made = folder / f"{prefix}{uuid4().hex}"
    made.mkdir()
    return made


def with_umask(folder: Path) -> None:
    """Give the files below a new folder the permissions of the umask: safetensors, for one, writes with 0600."""
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


@contextmanager
def native_writers() -> Iterator[None]:
    """Around what safetensors, tokenizers and torch write outside Python: raises OSError where the system refuses it.

    They tell that by errors of their own, the first two in the words of the system, torch in words of many kinds.
    """
    try:
        yield
    except Exception as error:
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
        if type(error) is RuntimeError:
            raise OSError(errno.EIO, f"torch cannot write: {error}") from error
        raise


def sync(path: Path) -> None:
    """Ask the system to put a file, or the list of names in a folder, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with written_aside(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
