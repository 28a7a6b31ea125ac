"""Metrics on arrays of labels, predictions and probabilities, and how much to trust them."""

from .cost import active_parameters, count_flops, forward_flops, peak_memory_mib
from .interleaving import interleaved, ratio, throughput
from .intervals import bootstrap_intervals
from .metrics import (
    ReliabilityBin,
    classification_metrics,
    expected_calibration_error,
    predicted_labels,
    reliability_bins,
)
from .paired import mcnemar, paired_bootstrap
from .predictions import evaluate_predictions
from .seeds import paired_t, summarise

__all__ = [
    "ReliabilityBin",
    "active_parameters",
    "bootstrap_intervals",
    "classification_metrics",
    "count_flops",
    "evaluate_predictions",
    "expected_calibration_error",
    "forward_flops",
    "interleaved",
    "mcnemar",
    "paired_bootstrap",
    "paired_t",
    "peak_memory_mib",
    "predicted_labels",
    "ratio",
    "reliability_bins",
    "summarise",
    "throughput",
]
