"""The folder of a run: whether it may be written to, by one process alone, and what says how the run was begun."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from sentimoe_settings import WITHOUT_EFFECT, TrainConfig

from ..errors import ConfigError
from ..records import write_json, write_text, writes

CONFIG, CHECKPOINTS, FINISHED = "config.yaml", "checkpoints", "run.json"  # a run is finished when the last one is there
START, LOCK = "start.json", "lock"  # among the checkpoints
PLACES = ("data", "more_train")  # a hash stands for what they hold


@contextmanager
def locked(folder: Path, resume: bool) -> Iterator[None]:
    """Hold a run folder for as long as something is written there.

    The system lets go of the lock of a process that was killed. A folder to which nothing was written is removed again.
    Raises ConfigError at once when the folder holds something else, another process holds it, or it must not be
    written to, and StoppedError when that fails.
    """
    _check_free(folder, resume)
    made = not folder.exists()
    with writes(folder):
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / CHECKPOINTS / LOCK, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise ConfigError(
                f"another process trains in {folder}; wait for its end or choose another output"
            ) from None
    try:
        _check_free(folder, resume)  # the process that held it may have finished just now
        yield
    finally:
        if made and _is_unused(folder):
            _remove(folder)
        lock.release()


def begin(folder: Path, config: TrainConfig, sha256: str, versions: dict[str, str]) -> None:
    """Write what decides a run, or compare it with how the run in the folder was begun.

    config: complete. sha256: of the data. versions: of all that a result depends on. Raises ConfigError when something
    differs.
    """
    start, now = folder / CHECKPOINTS / START, {"data": sha256} | versions
    if (folder / CONFIG).exists():
        stored, before = _stored(folder / CONFIG), _stored(start) if start.exists() else {}
        skipped = (*PLACES, *WITHOUT_EFFECT)
        differing = [key for key, value in config.to_dict().items() if key not in skipped and stored.get(key) != value]
        differing += [f"{key} ({value}, now {now[key]})" for key, value in before.items() if value != now[key]]
        if differing:
            raise ConfigError(
                f"{folder} was started with another {', '.join(differing)}; resume with the same, or remove the folder"
            )
    write_text(folder / CONFIG, yaml.safe_dump(config.to_dict(), sort_keys=False))
    write_json(start, now)


def _stored(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except (yaml.YAMLError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is damaged, so what the run was begun with is not known; choose another output")
    return found


def _check_free(folder: Path, resume: bool) -> None:
    if resume and (folder / FINISHED).exists():
        raise ConfigError(f"{folder} holds a finished run; choose another output for a new one")
    if not _is_unused(folder) and not (resume and (folder / CONFIG).exists()):
        raise ConfigError(f"{folder} is not empty; choose another output, or go on with --resume")


def _is_unused(folder: Path) -> bool:
    """Whether it holds nothing but what a process leaves that was killed before it wrote something."""
    here, below = ({path.name for path in place.glob("*")} for place in (folder, folder / CHECKPOINTS))
    return here <= {CHECKPOINTS} and below <= {LOCK}


def _remove(folder: Path) -> None:
    (folder / CHECKPOINTS / LOCK).unlink()
    with suppress(OSError):  # another process may be about to use it
        (folder / CHECKPOINTS).rmdir()
        folder.rmdir()
