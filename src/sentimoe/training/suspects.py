"""Labels that are probably wrong, found by confident learning on answers to texts that were held out.

Source: Northcutt, Jiang & Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec

import numpy as np
import pandas as pd

from ..data import text_chunks, values_of
from ..data.labels import label_order
from ..data.splitting import normalise
from ..data.text import is_missing
from ..errors import ConfigError, DataError
from .frozen import FOLDS, frozen_embeddings, out_of_fold

TEXTS_AT_ONCE = 4096
SURE = 0.8  # share of the labels that the judge gives too

logger = logging.getLogger(__name__)


def label_errors(
    texts: Iterable[str],
    labels: Iterable[str | int],
    *,
    model: str = "all-MiniLM-L6-v2",
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    trust_remote_code: bool = False,
    verify: bool = True,
) -> pd.DataFrame:
    """The texts whose label is probably wrong, the most suspicious first.

    Each text is judged by logistic regression on embeddings of the model, which is not trained, fitted on other texts.
    Texts of a class with fewer than five different texts are not judged; a log line tells.

    Args:
        texts, labels: one of each for every text, none blank.
        model: backbone: a short name, a folder or a hub id. At most 256 tokens of a text are read.
        progress: called with how many texts were read now.
        seed: of the five parts that are held out in turn. trust_remote_code, verify: of the model's folder.

    Returns:
        Columns ``row`` (the place among the texts, from 0), ``text``, ``label``, ``suggested``, ``prob_label`` and
        ``prob_suggested``, the probabilities of the two labels. Labels are in the form in which they were given.
        ``attrs["agreement"]`` is the share of all labels with which the judge agrees.

    Raises:
        ConfigError: cleanlab is not installed, or the model cannot be loaded.
        DataError: fewer than two classes can be judged, a text or label is missing, or there are more texts than
            labels, or fewer.
    """
    if find_spec("cleanlab") is None:
        raise ConfigError("the search for label errors needs cleanlab: pip install 'sentimoe[suspects]'")
    from cleanlab.filter import find_label_issues

    every = [text for chunk in text_chunks(texts, TEXTS_AT_ONCE) for text in chunk]
    found = list(values_of(labels, "labels"))
    given, form = [str(label) for label in found], {str(label): label for label in found}
    if len(every) != len(given):
        raise DataError(f"{len(every)} texts but {len(given)} labels; give one label for each text")
    if lacking := [row for row, text in enumerate(every) if not text.strip() or is_missing(found[row])]:
        raise DataError(
            f"{len(lacking)} rows lack a text or a label, the first of them row {lacking[0]}, counted from 0; leave "
            "them out"
        )
    rows, names = _judged(every, given)
    index = np.array([names.index(given[row]) for row in rows])
    read = [every[row] for row in rows]
    features = frozen_embeddings(read, model, progress, trust_remote_code=trust_remote_code, verify=verify)
    probabilities = out_of_fold(features, index, read, seed)
    issues = find_label_issues(index, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    best = probabilities[issues].argmax(axis=1)
    if (agreement := float((probabilities.argmax(axis=1) == index).mean())) < SURE:
        logger.warning(
            "the classifier that judges agrees with %.0f%% of the labels; trust the first rows most", 100 * agreement
        )
    frame = pd.DataFrame(
        {
            "row": rows[issues],
            "text": [read[place] for place in issues],
            "label": [form[names[index[place]]] for place in issues],
            "suggested": [form[names[each]] for each in best],
            "prob_label": probabilities[issues, index[issues]],
            "prob_suggested": probabilities[issues, best],
        }
    )
    frame.attrs["agreement"] = agreement
    return frame


def _judged(texts: Sequence[str], labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Places of the texts whose class has enough different texts to hold some out, and the names of these classes."""
    different: dict[str, set[str]] = {}
    for text, label in zip(texts, labels, strict=True):
        different.setdefault(label, set()).add(normalise(text))
    names = [name for name in label_order(different) if len(different[name]) >= FOLDS]
    if rare := [name for name in label_order(different) if name not in names]:
        logger.warning("labels with fewer than %d different texts are not judged: %s", FOLDS, ", ".join(rare))
    if len(names) < 2:
        raise DataError(
            f"the search for label errors needs two classes with {FOLDS} different texts each; there are "
            f"{len(names)}. Label more texts"
        )
    return np.array([row for row, label in enumerate(labels) if label in names]), names
