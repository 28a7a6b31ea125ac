"""Texts to token windows: a text longer than the model is read in overlapping windows, or truncated and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ..errors import ConfigError

LONG_TEXTS = ("windows", "truncate")


def check_long_texts(long_texts: str) -> None:
    """Raises ConfigError for an unknown way with long texts."""
    if long_texts not in LONG_TEXTS:
        raise ConfigError(f"long_texts={long_texts!r} must be one of {LONG_TEXTS}")


@dataclass(frozen=True)
class Windows:
    """Token windows of some texts.

    encodings: per window what the model is fed, lists of ids. owner: per window the index of its text.
    truncated: indices of the texts whose end was dropped.
    """

    encodings: list[dict[str, list[int]]]
    owner: list[int]
    truncated: list[int]


def make_windows(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    long_texts: str = "windows",
    *,
    offsets: bool = False,
) -> Windows:
    """Tokenise cleaned texts. Blank texts, and texts without a single token of their own, get no window.

    max_length counts special tokens; neighbouring windows share a quarter of it. offsets: encodings have an
    `offset_mapping`, the characters of each token. Raises ConfigError.
    """
    check_long_texts(long_texts)
    asked = [index for index, text in enumerate(texts) if text.strip()]
    if not asked:
        return Windows([], [], [])
    batch = tokenizer(
        [texts[index] for index in asked],
        truncation=True,
        max_length=max_length,
        stride=max_length // 4,
        return_overflowing_tokens=True,
        return_offsets_mapping=offsets,
        padding=False,
    )
    special = tokenizer.num_special_tokens_to_add()
    owner = [asked[sample] for sample in batch.pop("overflow_to_sample_mapping")]
    encodings: list[dict[str, list[int]]] = []
    kept: list[int] = []
    truncated: list[int] = []
    for window, text in enumerate(owner):
        ids = {name: values[window] for name, values in batch.items()}
        if len(ids["input_ids"]) <= special:
            continue
        if long_texts == "truncate" and kept and kept[-1] == text:
            if not truncated or truncated[-1] != text:
                truncated.append(text)
            continue
        encodings.append(ids)
        kept.append(text)
    return Windows(encodings, kept, truncated)
