"""Which files a job reads: files, folders and patterns, in a fixed order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from ..data.reading import READERS, FileFormat, kind_of
from ..data.streaming import Source, frames, inspected
from ..errors import DataError

ROWS_AT_ONCE = 1024
PART_CHARACTERS = 64_000_000  # of the texts of a part, however few they are


def input_files(given: Sequence[str | Path]) -> list[Path]:
    """Files as they are named; of a folder and of a pattern such as `data/*.csv` those that can be read, sorted.

    Raises DataError where there is none, or one is named twice.
    """
    found: list[Path] = []
    for each in given:
        name = os.path.expanduser(each)
        if os.path.isdir(name):
            below = sorted(path for path in Path(name).rglob("*") if path.is_file() and _readable(path))
        elif os.path.exists(name) or not glob.has_magic(name):
            below = [Path(name)]
        else:
            below = sorted(Path(path) for path in glob.glob(name, recursive=True) if _readable(Path(path)))
        if not below:
            raise DataError(f"{each}: no file to read there; files end in {', '.join(READERS)}, plain, .gz or .zst")
        found += below
    if not found:
        raise DataError("no input was given; name files, folders or patterns")
    if repeated := sorted(str(path) for path in set(found) if found.count(path) > 1):
        raise DataError(f"{repeated[0]} is named twice; its rows would be labelled twice")
    return found


def _readable(path: Path) -> bool:
    return kind_of(path) in READERS and not path.name.startswith(".")


def looked_at(files: Sequence[Path], file_format: FileFormat) -> list[Source]:
    """Each file, looked at once. Raises DataError where one cannot be read, or two have other columns."""
    sources = [inspected(path, file_format) for path in files]
    first = sources[0]
    for other in sources[1:]:
        if set(other.columns) != set(first.columns):
            raise DataError(
                f"{other.path} has the columns {', '.join(other.columns)}, and {first.path} has "
                f"{', '.join(first.columns)}; files of one job have the same columns"
            )
    return sources


def parts(sources: Sequence[Source], text_column: str, rows: int, limit: int | None = None) -> Iterator[pd.DataFrame]:
    """The rows of all files, in order, cut into parts in the same way at every reading.

    rows: of a part; fewer where the texts are so long that it would not fit in memory. limit: rows of all.
    """
    columns = list(sources[0].columns)
    waiting: list[pd.DataFrame] = []
    count = size = 0
    for frame in _limited(sources, min(rows, ROWS_AT_ONCE), limit):
        start = 0
        while start < len(frame):
            piece = frame.iloc[start : start + rows - count]
            waiting.append(piece)
            start, count = start + len(piece), count + len(piece)
            size += sum(len(text) for text in piece[text_column] if isinstance(text, str))
            if count == rows or size >= PART_CHARACTERS:
                yield _joined(waiting, columns)
                waiting, count, size = [], 0, 0
    if waiting:
        yield _joined(waiting, columns)


def _limited(sources: Sequence[Source], rows: int, limit: int | None) -> Iterator[pd.DataFrame]:
    left = limit
    for source in sources:
        for frame in frames(source, rows):
            if left is not None:
                frame, left = frame.iloc[:left], left - len(frame)
            yield frame
            if left is not None and left <= 0:
                return


def _joined(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat([frame[columns] for frame in frames], ignore_index=True)
