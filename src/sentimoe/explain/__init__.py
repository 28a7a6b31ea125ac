"""Which expert did what, for a data set and for one text."""

from .activation import Activation, by_class, entropy, shares, top_texts, top_tokens
from .attribution import attribute
from .controls import controls
from .information import class_preferences, information_with_baseline, mutual_information
from .knockout import knock_out_each, knocked_out
from .mistakes import confident_errors, label_suspects, mistakes
from .representation import expert_similarity, neighbours, pooled, project, separation, written
from .trace import Trace, trace, write_trace

__all__ = [
    "Activation",
    "Trace",
    "attribute",
    "by_class",
    "class_preferences",
    "confident_errors",
    "controls",
    "entropy",
    "expert_similarity",
    "information_with_baseline",
    "knock_out_each",
    "knocked_out",
    "label_suspects",
    "mistakes",
    "mutual_information",
    "neighbours",
    "pooled",
    "project",
    "separation",
    "shares",
    "top_texts",
    "top_tokens",
    "trace",
    "write_trace",
    "written",
]
