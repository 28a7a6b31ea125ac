"""Texts to token windows: a text longer than the model is read in overlapping windows, or truncated and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..errors import ConfigError

LONG_TEXTS = ("windows", "truncate")


def check_long_texts(long_texts: str) -> None:
    """Raises ConfigError for an unknown way with long texts."""
    if long_texts not in LONG_TEXTS:
        raise ConfigError(f"long_texts={long_texts!r} must be one of {LONG_TEXTS}")


def check_offsets(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ConfigError for a tokenizer that cannot say which characters a token came from."""
    if not tokenizer.is_fast:
        raise ConfigError(
            f"the {type(tokenizer).__name__} cannot say which characters a token came from; this needs a fast "
            "tokenizer, with a tokenizer.json"
        )


@dataclass(frozen=True)
class Windows:
    """Token windows of some texts.

    encodings: per window what the model is fed, lists of ids. owner: per window the index of its text.
    truncated: indices of the texts whose end was dropped.
    """

    encodings: list[dict[str, list[int]]]
    owner: list[int]
    truncated: list[int]

    def averaged(self, probabilities: np.ndarray, num_texts: int) -> np.ndarray:
        """`[W, C]` of windows -> `[B, C]` float32 of texts, weighted by length; NaN for a text without a window."""
        lengths = np.array([[len(ids["input_ids"])] for ids in self.encodings]).reshape(-1, 1)
        owner = np.array(self.owner, dtype=int)
        total, weight = np.zeros((num_texts, probabilities.shape[1])), np.zeros((num_texts, 1))
        np.add.at(total, owner, probabilities * lengths)
        np.add.at(weight, owner, lengths)
        weight[weight == 0] = np.nan
        return (total / weight).astype(np.float32)

    def most(self, counts: np.ndarray, num_texts: int) -> np.ndarray:
        """`[W]` of windows -> the largest of each text `[B]`; 0 for a text without a window."""
        found = np.zeros(num_texts, dtype=np.int64)
        np.maximum.at(found, np.array(self.owner, dtype=int), counts)
        return found


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
    readable = [index for index, text in enumerate(texts) if text.strip()]
    if not readable:
        return Windows([], [], [])
    # never truncated by the tokenizer: slow ones give no rest, and fast ones keep a length that threads would share
    plain = tokenizer(
        [texts[index] for index in readable],
        add_special_tokens=False,
        return_offsets_mapping=offsets,
        verbose=False,
    )
    size = max_length - tokenizer.num_special_tokens_to_add()
    step = max(1, size - max_length // 4)
    frame = _special_tokens(tokenizer, *_plain_text(tokenizer, texts, readable, plain["input_ids"]))
    encodings: list[dict[str, list[int]]] = []
    owner: list[int] = []
    truncated: list[int] = []
    for row, text in enumerate(readable):
        count = len(plain["input_ids"][row])
        if not count:
            continue
        if count > size and long_texts == "truncate":
            truncated.append(text)
        last = count - size if long_texts == "windows" else 0
        for start in range(0, max(last, 0) + step, step):
            encodings.append(
                {
                    name: [*frame[name][0], *values[row][start : start + size], *frame[name][1]]
                    for name, values in plain.items()
                }
            )
            owner.append(text)
    return Windows(encodings, owner, truncated)


def _plain_text(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], readable: Sequence[int], ids: Sequence[list[int]]
) -> tuple[str, list[int]]:
    """A text and its tokens, of which none is special: that of "[CLS]" could be one that is put before every text."""
    special = set(tokenizer.all_special_ids)
    for index, tokens in zip(readable, ids, strict=True):
        if tokens and special.isdisjoint(tokens):
            return texts[index], tokens
    return "a", tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]


def _special_tokens(
    tokenizer: PreTrainedTokenizerBase, text: str, plain: list[int]
) -> dict[str, tuple[list[Any], list[Any]]]:
    """What the tokenizer puts before and after the tokens of a text, for each of its outputs."""
    whole = tokenizer(text, verbose=False)
    added = len(whole["input_ids"]) - len(plain)
    before = next((at for at in range(added + 1) if whole["input_ids"][at : at + len(plain)] == plain), None)
    if before is None:
        raise ConfigError(
            f"the {type(tokenizer).__name__} puts special tokens inside a text, so long texts cannot be cut into "
            "windows; use another tokenizer"
        )
    frame = {name: (values[:before], values[before + len(plain) :]) for name, values in whole.items()}
    return frame | {"offset_mapping": ([(0, 0)] * before, [(0, 0)] * (added - before))}
