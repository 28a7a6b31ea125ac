"""FLOPs per text, counted while texts are answered."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

from ..data import clean_text
from ..evaluation import count_flops
from ..inference import Engine, make_windows

FLOP_TEXTS = 128


def gflops_per_text(engine: Any, texts: list[str]) -> float:
    """Mean over texts answered one by one, so that no padding counts.

    Of texts with equally many tokens a classifier reads one: every token meets `K` experts, so they cost the same.
    """
    alike: dict[Any, list[str]] = defaultdict(list)
    for row, text in enumerate(texts):
        alike[_lengths(engine, text) if isinstance(engine, Engine) else row].append(text)
    total = sum(
        len(same) * count_flops(engine.model, partial(engine.predict_proba, same[:1])) for same in alike.values()
    )
    return total / len(texts) / 1e9


def _lengths(engine: Engine, text: str) -> tuple[int, ...]:
    """Tokens of each window of a text."""
    windows = make_windows([clean_text(text)], engine.tokenizer, engine.max_length, engine.long_texts)
    return tuple(len(window["input_ids"]) for window in windows.encodings)
