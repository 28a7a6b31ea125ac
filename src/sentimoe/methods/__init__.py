"""The ways of adapting a pre-trained classifier."""

from .registry import METHODS, Method, adapt

__all__ = ["METHODS", "Method", "adapt"]
