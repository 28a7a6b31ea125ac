"""The columns that predictions add to those of their input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from ..predictions import answers

STRING = pd.ArrowDtype(pa.string())


def with_predictions(
    frame: pd.DataFrame,
    classes: Sequence[str | int],
    probabilities: np.ndarray,
    truncated: Sequence[int] | None = None,
    threshold: float | None = None,
    layers: np.ndarray | None = None,
    reasons: Sequence[str | None] | None = None,
    each_class: bool = False,
    domains: tuple[Sequence[str | None], np.ndarray] | None = None,
) -> pd.DataFrame:
    """The frame with `label` and `score` columns, and `truncated` where the rows that were cut are given.

    layers: `[B]`, how many layers read each text, for a column of that name. reasons: why a row has no answer, for a
    column `reason`. each_class: add the probability of each class, in columns `prob_CLASS`. domains: which domain
    answered each row, and how sure the router was of it, for columns `domain` and `domain_score`.

    With a threshold, rows of a lower score have no label: `guess` is what it would have been, `reason` says why it is
    missing. Columns in their way become `input_NAME`. probabilities: `[B, C]`.
    """
    best = [answer["label"] for answer in answers(probabilities, classes)]
    kind = pd.ArrowDtype(pa.int64()) if isinstance(classes[0], int) else STRING
    score = probabilities.max(axis=1, initial=0)
    added = {"label": pd.Series(best, dtype=kind), "score": pd.Series(score)}
    if threshold is not None:
        doubtful = score < threshold
        added["guess"] = added["label"]
        added["label"] = added["label"].where(~doubtful, None)
        reasons = [
            known or ("blank" if label is None else "doubtful" if low else None)
            for known, label, low in zip(reasons or [None] * len(best), best, doubtful, strict=True)
        ]
    if reasons is not None:
        added["reason"] = pd.Series(reasons, dtype=STRING)
    for index, name in enumerate(probability_names(list(map(str, classes))) if each_class else ()):
        added[name] = pd.Series(probabilities[:, index])
    if truncated is not None:
        added["truncated"] = pd.Series(np.isin(np.arange(len(frame)), truncated))
    if layers is not None:
        added["layers"] = pd.Series(layers)
    if domains is not None:
        added["domain"] = pd.Series(list(domains[0]), dtype=STRING)
        added["domain_score"] = pd.Series(np.asarray(domains[1], dtype=np.float32))
    kept, taken = [], {*frame.columns, *added}
    for name in frame.columns:
        free = name
        while name in added and free in taken:
            free = f"input_{free}"
        taken.add(free)
        kept.append(free)
    plain = frame.set_axis(kept, axis=1).reset_index(drop=True)  # rows are told apart by their place
    return pd.concat([plain, pd.DataFrame(added)], axis=1).set_axis(frame.index)


def named_domains(
    names: Sequence[str], domains: np.ndarray | None, scores: np.ndarray | None
) -> tuple[list[str | None], np.ndarray] | None:
    """The `domains` of `with_predictions` from those of `Predictions`; None of a model without any. names: of all."""
    if domains is None or scores is None:
        return None
    return [names[place] if place >= 0 else None for place in domains], scores


def made_up(rows: int, classes: int) -> np.ndarray:
    """Probabilities `[B, C]` that take as much room in a file as those of a model."""
    return np.random.default_rng(0).dirichlet(np.ones(classes), rows).astype(np.float32)


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
