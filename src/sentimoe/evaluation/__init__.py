"""Metrics on arrays of labels, predictions and probabilities, and how much to trust them."""

from .abstention import Threshold, find_threshold, risk_coverage, why_no_threshold
from .binomial import last_within, least_trials, lower_bound, most_events, needed_trials, upper_bound
from .calibration import calibration, fit_temperature
from .comparison import compare_predictions
from .confusion import ORDERED
from .cost import active_parameters, count_flops, peak_memory_mib
from .groups import group_metrics, holm
from .interleaving import interleaved, is_noisy, ratio, throughput
from .intervals import bootstrap_intervals
from .metrics import (
    ReliabilityBin,
    classification_metrics,
    expected_calibration_error,
    most_frequent,
    predicted_labels,
    reliability_bins,
)
from .ordinal import ordinal_metrics
from .paired import mcnemar, paired_bootstrap
from .predictions import evaluate_predictions
from .seeds import paired_t, summarise
from .tfidf import fit_tfidf, label_scores

__all__ = [
    "ORDERED",
    "ReliabilityBin",
    "Threshold",
    "active_parameters",
    "bootstrap_intervals",
    "calibration",
    "classification_metrics",
    "compare_predictions",
    "count_flops",
    "evaluate_predictions",
    "expected_calibration_error",
    "find_threshold",
    "fit_temperature",
    "fit_tfidf",
    "group_metrics",
    "holm",
    "interleaved",
    "is_noisy",
    "label_scores",
    "last_within",
    "least_trials",
    "lower_bound",
    "mcnemar",
    "most_events",
    "most_frequent",
    "needed_trials",
    "ordinal_metrics",
    "paired_bootstrap",
    "paired_t",
    "peak_memory_mib",
    "predicted_labels",
    "ratio",
    "reliability_bins",
    "risk_coverage",
    "summarise",
    "throughput",
    "upper_bound",
    "why_no_threshold",
]
