"""Domains that are added to a trained classifier later, and taken away again."""

from .add import Recipe, add_domain
from .receipt import OldTexts

__all__ = ["OldTexts", "Recipe", "add_domain"]
