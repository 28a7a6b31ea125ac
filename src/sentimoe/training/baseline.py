"""TF-IDF and logistic regression on the texts of a run: whether fine-tuning was worth it."""

from __future__ import annotations

import logging
from typing import Any

from sentimoe_settings import TrainConfig

from ..data import SentimentDataset, Split
from ..evaluation import fit_tfidf, label_scores
from .prepare import training_texts

MOST_TEXTS = 20_000  # more take minutes, and change its score little

logger = logging.getLogger(__name__)


def tfidf_baseline(config: TrainConfig, dataset: SentimentDataset, metrics: dict[str, Any]) -> dict[str, Any] | None:
    """Its scores on the splits of `metrics`; `better`: whether the model has the higher weighted F1 on the last one.

    metrics: of the model, by split. At most 20,000 of the training texts are read, drawn by the seed. None where no
    word stands in two training texts.
    """
    train = training_texts(dataset.splits["train"], config).sample(MOST_TEXTS, config.seed)
    try:
        pipeline = fit_tfidf(train, dataset.splits["validation"])
    except ValueError as error:  # scikit-learn's "no terms remain", "empty vocabulary"
        logger.warning("there is no TF-IDF baseline: %s", error)
        return None

    def scores(split: Split) -> dict[str, float]:
        return label_scores(split.labels, pipeline.predict(split.texts), len(dataset.label_names))

    found: dict[str, Any] = {name: scores(dataset.splits[name]) for name in metrics}
    last = list(metrics)[-1]
    found["train_used"] = len(train)
    found["better"] = metrics[last]["f1_weighted"] > found[last]["f1_weighted"]
    return found
