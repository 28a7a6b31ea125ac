"""What a fine-tuned model must beat: words counted by scikit-learn."""

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import Pipeline, make_pipeline

from ..data import Split

STRENGTHS = (0.3, 1.0, 3.0, 10.0)


def fit_tfidf(train: Split, validation: Split) -> Pipeline:
    """TF-IDF of words and word pairs, logistic regression; its C is chosen by weighted F1 on validation.

    Raises:
        ValueError: no word stands in two of the training texts.
    """
    pipelines = [
        make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, strip_accents="unicode"),
            LogisticRegression(C=strength, max_iter=1000),
        ).fit(train.texts, train.labels)
        for strength in STRENGTHS
    ]
    scores = [
        f1_score(validation.labels, pipeline.predict(validation.texts), average="weighted") for pipeline in pipelines
    ]
    return pipelines[int(np.argmax(scores))]


def label_scores(labels: list[int], predictions: NDArray[np.int64]) -> dict[str, float]:
    """``accuracy``, ``f1_weighted`` and ``f1_macro`` of predicted labels, as `classification_metrics` has them."""
    averages = {
        f"f1_{average}": float(f1_score(labels, predictions, average=average, zero_division=0))
        for average in ("weighted", "macro")
    }
    return {"accuracy": float(accuracy_score(labels, predictions)), **averages}
