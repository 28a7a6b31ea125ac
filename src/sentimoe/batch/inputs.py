"""Which files a job reads: files, folders and patterns, in a fixed order."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pandas as pd

from ..data.reading import READERS, FileFormat, kind_of
from ..data.rows import find_column
from ..data.streaming import ROWS_AT_ONCE, Source, frames, inspected, reads
from ..errors import DataError
from .journal import JOURNAL
from .schemas import unified

logger = logging.getLogger(__name__)
PART_BYTES = 256_000_000  # of a part in memory, however few its rows are


def input_files(given: Sequence[str | Path], leave_out: Sequence[Path] = ()) -> list[Path]:
    """Files as they are named; of a folder and of a pattern such as `data/*.csv` those that can be read, sorted.

    leave_out: files and folders that are written. Links to folders are followed. Raises DataError where there is no
    file, one is named twice, or a folder cannot be listed.
    """
    written = {path.resolve() for path in leave_out}
    found: list[Path] = []
    for each in given:
        name = os.path.expanduser(each)
        if os.path.isdir(name):
            depth = len(Path(name).parts)
            files = [path for path in _files_below(name) if not _hidden(path, depth)]
            below = _without_outputs([path for path in files if kind_of(path) in READERS], depth, written, each)
            if others := [path for path in files if kind_of(path) not in READERS]:
                logger.warning(
                    "%s: files that are no tables are not read: %d, such as %s", each, len(others), others[0]
                )
        elif os.path.exists(name) or not glob.has_magic(name):
            below = [Path(name)]
        else:
            *folders, _ = Path(name).parts
            depth = len(list(takewhile(lambda part: not glob.has_magic(part) or _hides(part), folders)))
            files = [path for path in map(Path, _matches(name)) if _is_file(path)]
            below = [path for path in files if kind_of(path) in READERS and not _hidden(path, depth)]
            below = _without_outputs(below, depth, written, each)
        if not below:
            raise DataError(f"{each}: no file to read there; files end in {', '.join(READERS)}, plain, .gz or .zst")
        apart = [path for path in below if written.isdisjoint(path.resolve().parents)]
        if below != [Path(name)]:  # a file that is named may be replaced by its labelled self
            apart = [path for path in apart if path.resolve() not in written]
        if not apart:
            raise DataError(f"{each} lies where the output is written; choose another output")
        found += sorted(apart)
    if not found:
        raise DataError("no input was given; name files, folders or patterns")
    counts = Counter(path.resolve() for path in found)
    if repeated := [path for path in found if counts[path.resolve()] > 1]:
        raise DataError(f"{repeated[0]} is named twice; its rows would be labelled twice")
    return found


def _files_below(folder: str) -> list[Path]:
    """All files in a folder and in those below it, also behind links; each folder is listed once."""

    def refused(error: OSError) -> None:
        with reads(Path(error.filename)):
            raise error

    found: list[Path] = []
    listed: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in listed else sorted(each for each in folders if not _hides(each))
        found += [] if real in listed else [Path(place, name) for name in names]
        listed.add(real)
    return [path for path in found if _is_file(path)]


def _is_file(path: Path) -> bool:
    with reads(path):
        return path.is_file()


def _matches(pattern: str) -> list[str]:
    """What a pattern matches. Folders in which it looks and that cannot be listed are errors, which `glob` hides."""
    parts = Path(pattern).parts
    for count, part in enumerate(parts):
        if glob.has_magic(part):
            above = glob.glob(os.path.join(*parts[:count]) if count else ".", recursive=True)
            for place in filter(os.path.isdir, above):
                with reads(Path(place)):
                    os.scandir(place).close()
    return glob.glob(pattern, recursive=True)


def _hidden(path: Path, depth: int) -> bool:
    """Whether a name after so many begins with `.` or `_`, or is that of the parts of a job."""
    *folders, name = path.parts[depth:]
    return name.startswith((".", "_")) or any(map(_hides, folders))


def _without_outputs(files: list[Path], depth: int, written: set[Path], given: str | Path) -> list[Path]:
    """Files without those that jobs wrote to folders of their own. written: by this job; these are told apart later."""
    below = {path.parent for path in files if len(path.parts) - 1 > depth}
    jobs = {each for each in below if (each / JOURNAL).exists() and each.resolve() not in written}
    if outputs := [path for path in files if path.parent in jobs]:
        logger.warning("%s: what a job labelled is not read: %d, such as %s", given, len(outputs), outputs[0])
    return [path for path in files if path.parent not in jobs]


def _hides(folder: str) -> bool:
    """Whether nothing in a folder of this name is an input."""
    return folder.startswith((".", "_")) or folder.endswith(".partial")


def looked_at(files: Sequence[Path], file_format: FileFormat, text_column: str | None = None) -> list[Source]:
    """Each file, looked at once; those without a line, which name no columns, have those of the others.

    Parquet files may lack columns of others that may be empty. Raises DataError where one cannot be read, or two have
    other columns or types.
    """
    sources = [inspected(path, file_format) for path in files]
    named = next((source.names for source in sources if source.names), (text_column or "text",))
    sources = [source if source.names else replace(source, names=named) for source in sources]
    if all(source.schema is not None for source in sources):
        return unified(sources)
    first = sources[0]
    for other in sources[1:]:
        if set(other.columns) != set(first.columns):
            raise DataError(
                f"{other.path} has the columns {', '.join(other.columns)}, and {first.path} has "
                f"{', '.join(first.columns)}; files of one job have the same columns"
            )
    return sources


def column_of_texts(sources: Sequence[Source], given: str | None, usual: str | None = None) -> str:
    """The column of the texts, as `find_column` finds it. Raises DataError where a file lacks it."""
    column = find_column(pd.DataFrame(columns=list(sources[0].names)), str(sources[0].path), given, "text", usual)
    for source in sources:
        if column in source.absent:
            raise DataError(f'{source.path} has no column "{column}", which holds the texts of {sources[0].path}')
    return column


def parts(sources: Sequence[Source], rows: int, limit: int | None = None) -> Iterator[pd.DataFrame]:
    """The rows of all files, in order, cut into parts in the same way at every reading.

    rows: of a part; fewer where they are so long that it would not fit in memory. limit: rows of all. Raises DataError
    for a file that has changed since it was looked at, before a part with rows of it is given.
    """
    columns = list(sources[0].columns)
    waiting: list[pd.DataFrame] = []
    read: list[Source] = []  # files of this part
    count = size = 0
    for source, frame in _limited(sources, min(rows, ROWS_AT_ONCE), limit):
        if source not in read[-1:]:
            read.append(source)
        start = 0
        while start < len(frame):
            piece = frame.iloc[start : start + rows - count]
            waiting.append(piece)
            start, count = start + len(piece), count + len(piece)
            size += _bytes_of(piece)
            if count == rows or size >= PART_BYTES:
                yield _unchanged(waiting, columns, read)
                waiting, read, count, size = [], read[-1:], 0, 0
    if waiting:
        yield _unchanged(waiting, columns, read)


def _bytes_of(frame: pd.DataFrame) -> int:
    """What a table takes in memory, also in its lists and objects, into which pandas does not look."""
    cells = (cell for _, column in frame.items() if column.dtype == object for cell in column)
    nested = sum(len(str(cell)) for cell in cells if isinstance(cell, list | dict))
    return int(frame.memory_usage(deep=True).sum()) + nested


def _unchanged(waiting: list[pd.DataFrame], columns: list[str], read: list[Source]) -> pd.DataFrame:
    """The part, if no file of it has changed."""
    for source in read:
        source.check_unchanged()
    return _joined(waiting, columns)


def _limited(sources: Sequence[Source], rows: int, limit: int | None) -> Iterator[tuple[Source, pd.DataFrame]]:
    left = limit
    for source in sources:
        for frame in frames(source, rows):
            if left is not None:
                frame, left = frame.iloc[:left], left - len(frame)
            yield source, frame
            if left is not None and left <= 0:
                return


def _joined(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    frames = [frame[columns] for frame in frames]
    for name in columns:
        if len({frame[name].dtype for frame in frames}) > 1:  # of two files: an integer must not become a float
            frames = [frame.assign(**{name: frame[name].astype(object)}) for frame in frames]
    return pd.concat(frames, ignore_index=True)
