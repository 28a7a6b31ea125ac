"""The rows of a finished job that a person should look at."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..data.reading import FileFormat
from ..data.streaming import frames, inspected
from .predictor import DOUBTFUL

AT_ONCE = 16_384


def doubtful_rows(output: Path) -> pd.DataFrame:
    """The rows below the threshold of the model, the most doubtful first, with all their columns.

    output: the file or the folder of parts that a job wrote. Only these rows are kept in memory.
    """
    files = sorted(output.glob("part-*")) if output.is_dir() else [output]
    found = []
    for file in files:
        source = inspected(file, FileFormat("utf-8", ",") if file.suffix == ".csv" else FileFormat())
        found += [frame[frame["reason"] == DOUBTFUL] for frame in frames(source, AT_ONCE)]
    rows = pd.concat(found, ignore_index=True)
    numbers = [name for name in rows.columns if name == "score" or name.startswith("prob_")]
    rows = rows.assign(**{name: pd.to_numeric(rows[name]) for name in numbers})
    return rows.sort_values("score", kind="stable", ignore_index=True)
