"""The interactive page: type a text, see what the experts do with it."""

from .app import MAX_BYTES, MAX_CHARACTERS, create_app

__all__ = ["MAX_BYTES", "MAX_CHARACTERS", "create_app"]
