"""SentiMoE: any pre-trained language model becomes a gated mixture-of-experts sentiment classifier.

Importing the package registers its model classes, so that `AutoModelForSequenceClassification.from_pretrained` and
`pipeline("text-classification")` load what `save_pretrained` wrote.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .config import FFNLayout, MoEConfig
from .model_folder import register_adapters
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

if TYPE_CHECKING:
    from .classifier import SentimentClassifier

register()
register_adapters()


def __getattr__(name: str) -> Any:
    """What is slow is done when it is asked for: `SentimentClassifier` brings scikit-learn, pandas and the Trainer."""
    if name == "SentimentClassifier":
        from .classifier import SentimentClassifier

        return SentimentClassifier
    if name == "__version__":
        return version("sentimoe")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
