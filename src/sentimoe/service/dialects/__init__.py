"""What the service speaks. A dialect only translates: the batcher answers."""

from __future__ import annotations

import re

from .dialect import Dialect
from .huggingface import HUGGING_FACE
from .own import OWN
from .tei import TEI
from .vllm import VLLM

DIALECTS = (OWN, TEI, HUGGING_FACE, VLLM)
PLACES = (
    (re.compile(r"/(models/[^/]*/)?(predict|info)"), TEI),
    (re.compile(r"/models/[^/]*"), HUGGING_FACE),
    (re.compile(r"/classify"), VLLM),
)


def dialect_at(path: str) -> Dialect:
    """The dialect of an address; ours for all others."""
    return next((dialect for place, dialect in PLACES if place.fullmatch(path)), OWN)


__all__ = ["DIALECTS", "Dialect", "dialect_at"]
