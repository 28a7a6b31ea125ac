"""Whether a table can be written, tried before the model reads anything."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from tempfile import NamedTemporaryFile

import pandas as pd

from sentimoe.data import json_lines, write_table


def try_writing(frame: pd.DataFrame, output: Path | None) -> None:
    """Raise now, before the model has read anything, what writing the frame would raise; None: standard output."""
    if output is None:
        deque(json_lines(frame), maxlen=0)
        return
    folder = os.path.dirname(os.path.realpath(output))
    try:
        with NamedTemporaryFile(dir=folder, prefix="trial-", suffix=output.suffix) as trial:
            write_table(frame, Path(trial.name))
    except OSError as error:
        error.filename = str(output)
        raise
