"""What of a job is finished: a line for each part, on the disk before the next one counts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..records import sync, write_text

JOURNAL = "_journal.jsonl"  # readers of whole folders pass by names that begin so
FORMAT = 4


class Journal:
    """The journal in a folder of parts. about: what decides the output; another one is refused.

    `parts`: what is known of each finished part, in order. `done`: whether the job came to its end. `joined`: the hash
    of the one file that was made of the parts, if it was. `closed`: whether what follows the job is done as well.
    replaced: the hash of an input that lies where that file
    goes; a job whose output took its place is the same job.
    Raises ConfigError where the folder holds the parts of another job, or something else.
    """

    def __init__(self, folder: Path, about: dict[str, Any], replaced: str | None = None):
        self.folder, self.path = folder, folder / JOURNAL
        self.parts: list[dict[str, Any]] = []
        self.done: dict[str, Any] | None = None
        self.joined: str | None = None
        self.closed = False
        about = json.loads(json.dumps({"format": FORMAT} | about))
        if self.path.exists():
            before, *lines = _lines(self.path)
            in_place = {"joined": replaced} in lines and _but_input(before) == _but_input(about)
            if before != about and not in_place:
                raise ConfigError(
                    f"{folder} holds parts of another job: {_difference(before, about)}. Give what it was begun with, "
                    "or add --overwrite to begin anew"
                )
            for line in lines:
                if "part" in line:
                    self.parts.append(line)
                elif "joined" in line:
                    self.joined = line["joined"]
                elif "closed" in line:
                    self.closed = True
                else:
                    self.done = line
            return
        folder.mkdir(parents=True, exist_ok=True)
        if others := [each.name for each in folder.iterdir() if not each.name.startswith(".")]:
            raise ConfigError(f"{folder} is not empty ({others[0]}) and holds no journal; choose another folder")
        write_text(self.path, json.dumps(about) + "\n")

    def add(self, part: dict[str, Any]) -> None:
        """Enter a part whose file is on the disk."""
        self._append(part)
        self.parts.append(part)

    def finish(self, report: dict[str, Any]) -> None:
        """Enter that there is nothing left to do."""
        self._append({"done": report})
        self.done = {"done": report}

    def join(self, sha256: str) -> None:
        """Enter the hash of the file that is made of the parts, before it gets its name."""
        self._append({"joined": sha256})
        self.joined = sha256

    def close(self) -> None:
        """Enter that what follows the job is done as well."""
        if not self.closed:
            self._append({"closed": True})
            self.closed = True

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("ab") as stream:
            stream.write(json.dumps(line).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


def listed(folder: Path) -> list[Path]:
    """The parts that the journal of a folder lists, in order. Raises ConfigError where it is damaged."""
    return [folder / line["file"] for line in _lines(folder / JOURNAL) if "file" in line]


def is_done(folder: Path) -> bool:
    """Whether all parts of the job in a folder are finished. Only reads, as another process may write there."""
    return (folder / JOURNAL).exists() and b'\n{"done"' in (folder / JOURNAL).read_bytes()


def _but_input(about: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in about.items() if key not in ("inputs", "reading")}


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal; half a line at its end, of a process that was killed, is cut off."""
    data = path.read_bytes()
    whole, _, half = data.rpartition(b"\n")
    if half:
        with path.open("r+b") as stream:
            stream.truncate(len(whole) + 1)
        sync(path)
    try:
        return [json.loads(line) for line in whole.split(b"\n")]
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}); add --overwrite to begin anew") from error


def _difference(before: Any, now: Any, name: str = "") -> str:
    """The first thing that is not the same, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        if (file := now.get("file")) is not None and before.get("file") == file:
            name = f"{name} {file}".strip()
        for key in dict.fromkeys([*before, *now]):
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{name} {key}".strip())
    if isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return f"{name} were {len(before)}, and now are {len(now)}"
        for was, new in zip(before, now, strict=True):
            if was != new:
                return _difference(was, new, name)
    return f"{name} was {_short(before)}, and now is {_short(now)}"


def _short(value: Any) -> str:
    written = json.dumps(value)
    return written if len(written) < 200 else f"{written[:200]}..."
