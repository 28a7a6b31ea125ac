"""The columns that `sentimoe predict` adds to those of its input."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import pandas as pd
import pyarrow as pa

from sentimoe.data import json_lines, write_table
from sentimoe.predictions import answers

STRING = pd.ArrowDtype(pa.string())


def with_predictions(
    frame: pd.DataFrame,
    classes: Sequence[str | int],
    probabilities: np.ndarray,
    truncated: Sequence[int] | None = None,
    threshold: float | None = None,
    layers: np.ndarray | None = None,
) -> pd.DataFrame:
    """The frame with `label`, `score` and `prob_CLASS` columns, and `truncated` where the rows that were cut are given.

    layers: `[B]`, how many layers read each text, for a column of that name.

    With a threshold, rows of a lower score have no label: `guess` is what it would have been, `reason` says why there is
    none. Columns in their way become `input_NAME`. probabilities: `[B, C]`.
    """
    best = [answer["label"] for answer in answers(probabilities, classes)]
    kind = object if isinstance(classes[0], int) else STRING
    score = probabilities.max(axis=1, initial=0)
    added = {"label": pd.Series(best, dtype=kind), "score": pd.Series(score)}
    if threshold is not None:
        doubtful = score < threshold
        added["guess"] = added["label"]
        added["label"] = added["label"].where(~doubtful, None)
        reasons = [
            "blank" if label is None else "doubtful" if low else None for label, low in zip(best, doubtful, strict=True)
        ]
        added["reason"] = pd.Series(reasons, dtype=STRING)
    for index, name in enumerate(probability_names(list(map(str, classes)))):
        added[name] = pd.Series(probabilities[:, index])
    if truncated is not None:
        added["truncated"] = pd.Series(np.isin(np.arange(len(frame)), truncated))
    if layers is not None:
        added["layers"] = pd.Series(layers)
    kept, taken = [], {*frame.columns, *added}
    for name in frame.columns:
        free = name
        while name in added and free in taken:
            free = f"input_{free}"
        taken.add(free)
        kept.append(free)
    return pd.concat([frame.set_axis(kept, axis=1), pd.DataFrame(added)], axis=1)


def probability_names(label_names: Sequence[str]) -> list[str]:
    """`prob_CLASS` for every class, in order; of classes that share a name the later ones are numbered from 2."""
    names: list[str] = []
    for label in label_names:
        name, number = f"prob_{label}", 1
        while name in names or (number > 1 and name.removeprefix("prob_") in label_names):
            number += 1
            name = f"prob_{label}_{number}"
        names.append(name)
    return names


def made_up(rows: int, classes: int) -> np.ndarray:
    """Probabilities `[B, C]` that take as much room in a file as those of a model."""
    return np.random.default_rng(0).dirichlet(np.ones(classes), rows).astype(np.float32)


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
