"""SentiMoE: any pre-trained language model becomes a gated mixture-of-experts sentiment classifier.

Importing the package registers its model classes, so that `AutoModelForSequenceClassification.from_pretrained` and
`pipeline("text-classification")` load what `save_pretrained` wrote.
"""

from .classifier import SentimentClassifier
from .config import FFNLayout, MoEConfig
from .upcycle import (
    CollapseReport,
    MoEReceipt,
    SentiMoEConfig,
    SentiMoEForSequenceClassification,
    collapse,
    load_classifier,
    register,
    upcycle,
)

register()

__all__ = [
    "CollapseReport",
    "FFNLayout",
    "MoEConfig",
    "MoEReceipt",
    "SentiMoEConfig",
    "SentiMoEForSequenceClassification",
    "SentimentClassifier",
    "collapse",
    "load_classifier",
    "upcycle",
]
