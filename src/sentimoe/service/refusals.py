"""Why a request is not answered. Each dialect has its own words and status for the same kind."""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """Kinds of refusal, and the status of each where a dialect has no other."""

    EMPTY = 400  # no text, or a blank one, where the dialect has no answer for it
    NO_TOKEN = 401
    FOREIGN = 403  # under another name than ours, or from a page of another origin
    UNKNOWN = 404  # no such model or address
    NO_METHOD = 405
    SLOW = 408  # a body that does not come
    TOO_LARGE = 413
    INVALID = 422
    OVERLOADED = 429
    FAILED = 500  # the model has no answer
    CLOSING = 503
    DEADLINE = 504


class Refusal(Exception):
    """A request that is not answered. headers: of the answer that says so."""

    def __init__(self, kind: Kind, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.kind, self.message, self.headers = kind, message, headers or {}
