"""Training on the Hugging Face Trainer."""

from .config import TrainConfig
from .fit import FitResult, fit
from .run import evaluate_split, hardware, prepare, train, training_texts

__all__ = ["FitResult", "TrainConfig", "evaluate_split", "fit", "hardware", "prepare", "train", "training_texts"]
