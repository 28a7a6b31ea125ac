"""The ways of adapting a pre-trained classifier."""

from .registry import METHODS, Method, adapt, merge
from .storage import load_adapted, save_adapted

__all__ = ["METHODS", "Method", "adapt", "load_adapted", "merge", "save_adapted"]
