"""Training on the Hugging Face Trainer."""

from .config import TrainConfig
from .fit import FitResult, fit
from .run import evaluate_split, prepare, train, training_texts

__all__ = ["FitResult", "TrainConfig", "evaluate_split", "fit", "prepare", "train", "training_texts"]
