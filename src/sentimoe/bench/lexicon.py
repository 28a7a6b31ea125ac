"""A lexicon that was never trained."""

from __future__ import annotations

import numpy as np
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from ..data import Split
from ..errors import ConfigError


def vader_probabilities(test: Split, label_names: tuple[str, ...]) -> np.ndarray:
    """VADER (Hutto & Gilbert 2014) as one-hot `[B, C]`: compound >= 0.05 positive, <= -0.05 negative, else neutral.

    Raises ConfigError when the labels are not negative, neutral, positive.
    """
    if label_names != ("negative", "neutral", "positive"):
        raise ConfigError(f"VADER knows negative, neutral and positive, not {label_names}")
    analyzer = SentimentIntensityAnalyzer()
    compound = np.array([analyzer.polarity_scores(text)["compound"] for text in test.texts])
    return np.eye(3)[1 + (compound >= 0.05).astype(int) - (compound <= -0.05).astype(int)]
