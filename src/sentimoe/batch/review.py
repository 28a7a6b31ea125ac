"""The rows of a finished job that a person should look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.reading import FileFormat
from ..data.streaming import frames, inspected, without_rows
from .journal import listed
from .predictor import DOUBTFUL

AT_ONCE, ROW = 16_384, "row"


def doubtful_rows(output: Path, numbers: Sequence[str] = ("score",)) -> pd.DataFrame:
    """The rows below the threshold of the model, the most doubtful first, as `review_queue` gives them.

    output: the file or the folder of parts that a job wrote. numbers: the columns of numbers that it added. Only these
    rows are kept in memory.
    """
    files = listed(output) if output.is_dir() else [output]
    sources = [
        inspected(file, FileFormat("utf-8", ",") if file.suffix.lower() == ".csv" else FileFormat()) for file in files
    ]
    found, read = [], 0
    for source in sources:
        for frame in frames(source, AT_ONCE):
            found.append(_numbered(frame, read))
            read += len(frame)
    rows = pd.concat(found or [_numbered(without_rows(sources[0]), 0)], ignore_index=True)
    rows = rows.assign(**{name: pd.to_numeric(rows[name]) for name in numbers})
    return rows.sort_values("score", kind="stable", ignore_index=True)


def review_queue(frame: pd.DataFrame) -> pd.DataFrame:
    """The doubtful rows of answered ones, the most doubtful first, with all their columns.

    Before these stands `row`, the number of the row among all, from 1, unless there is a column of this name.
    """
    return _numbered(frame, 0).sort_values("score", kind="stable", ignore_index=True)


def _numbered(frame: pd.DataFrame, before: int) -> pd.DataFrame:
    """The doubtful rows with their numbers. before: rows that come before the frame."""
    low = frame["reason"].eq(DOUBTFUL).fillna(False).to_numpy(dtype=bool)
    found = frame[low].copy()
    if ROW not in found.columns:
        found.insert(0, ROW, np.flatnonzero(low) + before + 1)
    return found
