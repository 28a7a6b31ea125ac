"""Training on the Hugging Face Trainer."""

from sentimoe_settings import WITHOUT_EFFECT, TrainConfig

from .calibrate import calibrate
from .fit import FitResult, fit
from .prepare import Prepared, dataset_of, finished, prepare, training_texts, with_order, with_recipe
from .run import TrainedModel, train, train_model
from .stopping import Stop
from .suspects import label_errors

__all__ = [
    "WITHOUT_EFFECT",
    "FitResult",
    "Prepared",
    "Stop",
    "TrainConfig",
    "TrainedModel",
    "calibrate",
    "dataset_of",
    "finished",
    "fit",
    "label_errors",
    "prepare",
    "train",
    "train_model",
    "training_texts",
    "with_order",
    "with_recipe",
]
