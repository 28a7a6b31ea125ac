"""Metrics on arrays of labels, predictions and probabilities, and how much to trust them."""

from sentimoe.evaluation.cost import active_parameters, count_flops, forward_flops, peak_memory_mib
from sentimoe.evaluation.intervals import bootstrap_intervals
from sentimoe.evaluation.metrics import (
    ReliabilityBin,
    classification_metrics,
    expected_calibration_error,
    predicted_labels,
    reliability_bins,
)
from sentimoe.evaluation.paired import mcnemar, paired_bootstrap
from sentimoe.evaluation.predictions import evaluate_predictions
from sentimoe.evaluation.seeds import paired_t, summarise
from sentimoe.evaluation.turns import in_turns, rate, ratio

__all__ = [
    "ReliabilityBin",
    "active_parameters",
    "bootstrap_intervals",
    "classification_metrics",
    "count_flops",
    "evaluate_predictions",
    "expected_calibration_error",
    "forward_flops",
    "in_turns",
    "mcnemar",
    "paired_bootstrap",
    "paired_t",
    "peak_memory_mib",
    "predicted_labels",
    "rate",
    "ratio",
    "reliability_bins",
    "summarise",
]
