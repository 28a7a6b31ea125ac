"""The ways of adapting a pre-trained classifier, and of asking a language model that was not trained."""

from .p_tuning import VIRTUAL_TOKENS
from .packed import freeze_packed, round_packed
from .prompts import PROMPTS, Prompt
from .registry import METHODS, Method, adapt, check_settings, check_trains, find_method, merge
from .storage import load_adapted, save_adapted
from .zero_shot import ZeroShot, load_zero_shot

__all__ = [
    "METHODS",
    "PROMPTS",
    "VIRTUAL_TOKENS",
    "Method",
    "Prompt",
    "ZeroShot",
    "adapt",
    "check_settings",
    "check_trains",
    "find_method",
    "freeze_packed",
    "load_adapted",
    "load_zero_shot",
    "merge",
    "round_packed",
    "save_adapted",
]
