"""TF-IDF and logistic regression on the texts of a run: whether fine-tuning was worth it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sentimoe_settings import TrainConfig

from ..data import SentimentDataset
from ..evaluation import fit_tfidf, label_scores, paired_bootstrap
from .prepare import training_texts

MOST_TEXTS = 20_000  # more take minutes, and change its score little

logger = logging.getLogger(__name__)


def tfidf_baseline(
    config: TrainConfig, dataset: SentimentDataset, answers: Mapping[str, NDArray[np.int64]]
) -> dict[str, Any] | None:
    """Its scores on splits; `difference`: of weighted F1 on the last split, the model's less its own, with interval.

    answers: the labels that the model gives to the texts of each split, -1 for none. At most 20,000 of the training
    texts are read, drawn by the seed. None where no word stands in two training texts.
    """
    train = training_texts(dataset.splits["train"], config).sample(MOST_TEXTS, config.seed)
    try:
        pipeline = fit_tfidf(train, dataset.splits["validation"])
    except ValueError as error:  # scikit-learn's "no terms remain", "empty vocabulary"
        logger.warning("there is no TF-IDF baseline: %s", error)
        return None

    found: dict[str, Any] = {"train_used": len(train)}
    for name, given in answers.items():
        split = dataset.splits[name]
        own = pipeline.predict(split.texts)
        found[name] = label_scores(split.labels, own)
        test = paired_bootstrap(split.labels, given, own, num_classes=len(dataset.label_names))
        found["difference"] = {key: test[key] for key in ("difference", "interval")}  # the last one's stays
    return found
