"""FLOPs per text, counted while texts are answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..data import clean_text
from ..evaluation import count_flops
from ..inference import Engine, Windows

FLOP_TEXTS = 128  # for what is no engine, and answers texts one by one
TEXTS_AT_ONCE = 4096


def gflops_per_text(engine: Any, texts: Sequence[str]) -> float:
    """Mean over all texts, as if they were answered one by one, so that no padding counts.

    Of windows with equally many tokens a classifier reads one: every token meets `K` experts, so they cost the same.
    What is no `Engine`, such as a language model that is asked, reads each text.
    """
    if not isinstance(engine, Engine):
        return (
            sum(count_flops(engine.model, partial(engine.predict_proba, [text])) for text in texts) / len(texts) / 1e9
        )
    counts: Counter[int] = Counter()
    examples: dict[int, dict[str, list[int]]] = {}
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        for window in engine.windows([clean_text(text) for text in texts[start : start + TEXTS_AT_ONCE]]).encodings:
            counts[len(window["input_ids"])] += 1
            examples.setdefault(len(window["input_ids"]), window)
    total = 0
    for length, window in examples.items():
        one = Windows([window], [0], [])
        total += counts[length] * count_flops(engine.model, partial(engine.answers, one))
    return total / len(texts) / 1e9
