"""Training on the Hugging Face Trainer."""

from .config import TrainConfig
from .fit import FitResult, fit
from .run import TrainedModel, evaluate_split, hardware, prepare, train, train_model, training_texts, versions

__all__ = [
    "FitResult",
    "TrainConfig",
    "TrainedModel",
    "evaluate_split",
    "fit",
    "hardware",
    "prepare",
    "train",
    "train_model",
    "training_texts",
    "versions",
]
