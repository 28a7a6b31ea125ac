"""What a classifier must beat: words counted by scikit-learn, and a lexicon that was never trained."""

from __future__ import annotations

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import Pipeline, make_pipeline
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from ..data import Split
from ..errors import ConfigError


def fit_tfidf(train: Split, validation: Split) -> Pipeline:
    """TF-IDF of words and word pairs, logistic regression; its C is chosen on validation."""
    best: tuple[float, Pipeline | None] = (-1.0, None)
    for strength in (0.3, 1.0, 3.0, 10.0):
        pipeline = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, strip_accents="unicode"),
            LogisticRegression(C=strength, max_iter=1000),
        ).fit(train.texts, train.labels)
        score = f1_score(validation.labels, pipeline.predict(validation.texts), average="weighted")
        best = max(best, (score, pipeline), key=lambda pair: pair[0])
    assert best[1] is not None
    return best[1]


def vader_probabilities(test: Split, label_names: tuple[str, ...]) -> np.ndarray:
    """VADER (Hutto & Gilbert 2014) as one-hot `[B, C]`: compound >= 0.05 positive, <= -0.05 negative, else neutral.

    Raises ConfigError when the labels are not negative, neutral, positive.
    """
    if label_names != ("negative", "neutral", "positive"):
        raise ConfigError(f"VADER knows negative, neutral and positive, not {label_names}")
    analyzer = SentimentIntensityAnalyzer()
    compound = np.array([analyzer.polarity_scores(text)["compound"] for text in test.texts])
    return np.eye(3)[1 + (compound >= 0.05).astype(int) - (compound <= -0.05).astype(int)]
