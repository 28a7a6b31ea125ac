"""The ways of adapting a pre-trained classifier, and of asking a language model that was not trained."""

from .packed import freeze_packed, round_packed
from .prompts import PROMPTS, Prompt
from .registry import METHODS, Method, adapt, merge
from .storage import load_adapted, save_adapted
from .zero_shot import ZeroShot, load_zero_shot

__all__ = [
    "METHODS",
    "PROMPTS",
    "Method",
    "Prompt",
    "ZeroShot",
    "adapt",
    "freeze_packed",
    "load_adapted",
    "load_zero_shot",
    "merge",
    "round_packed",
    "save_adapted",
]
