"""A trained model gets the temperature under which the labels of validation are likeliest."""

from __future__ import annotations

import logging
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sentimoe_settings import TrainConfig

from ..data import SentimentDataset
from ..errors import DataError, NotSupportedError
from ..evaluation import calibration
from ..inference import Engine
from ..upcycle import divide_logits

WORSE = 0.005  # of the calibration error; less is chance

logger = logging.getLogger(__name__)


def calibrate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dataset: SentimentDataset, config: TrainConfig
) -> dict[str, Any] | None:
    """Fold a temperature into the model. Returns what `calibration` does, or None where the model stays as it is.

    The model stays, and a log line says why, where validation has too few texts or no linear layer computes the logits.
    """
    validation = dataset.splits["validation"]
    engine = Engine(model, tokenizer, precision=config.precision)
    try:
        found = calibration(engine.answers_at(validation.texts), validation.labels)
        divide_logits(model, found["temperature"])
    except (DataError, NotSupportedError) as error:
        logger.warning("the model is not calibrated: %s", error)
        return None
    if found["ece_after"] > found["ece_before"] + WORSE:
        logger.warning(
            "calibrated on %d texts, which made it no better: the calibration error went from %.3f to %.3f",
            *(found["n"], found["ece_before"], found["ece_after"]),
        )
    return found
