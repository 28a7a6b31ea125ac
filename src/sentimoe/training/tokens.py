"""Texts to token ids for the Trainer; those without a token of their own are left out and counted."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..data import Split, clean_text
from ..errors import DataError

ROW = "row"  # a column of the data set: the number of a text in its split, from 1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokenised:
    """A split as the Trainer takes it.

    rows: `input_ids`, `attention_mask`, `labels` and `ROW` of the texts that have tokens. truncated: how many of them
    are longer than `max_length`. unread: how many texts have no token of their own, such as a zero-width space.
    """

    rows: Dataset
    truncated: int
    unread: int


def tokenise(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int, name: str) -> Tokenised:
    """Tokenise a split. name: "training" or "validation", for messages. Raises DataError when no text has a token."""
    texts = [clean_text(text) for text in split.texts]
    encoded = tokenizer(texts, truncation=True, max_length=max_length)
    special = tokenizer.num_special_tokens_to_add()
    kept = [row for row, ids in enumerate(encoded["input_ids"]) if len(ids) > special]
    unread = len(texts) - len(kept)
    if not kept:
        raise DataError(f"the tokenizer finds no token in any of the {name} texts; give texts that it can read")
    if unread:
        first = next(row for row, ids in enumerate(encoded["input_ids"]) if len(ids) <= special)
        logger.warning(
            "%d of %d %s texts have no token and are left out, the first one is number %d: %r",
            *(unread, len(texts), name, first + 1, texts[first]),
        )
    at_limit = [texts[row] for row in kept if len(encoded["input_ids"][row]) >= max_length]
    longer = tokenizer(at_limit, truncation=True, max_length=max_length + 1)["input_ids"] if at_limit else []
    truncated = sum(len(ids) > max_length for ids in longer)
    if truncated:
        logger.warning("%d of %d %s texts are cut at %d tokens", truncated, len(texts), name, max_length)
    rows = Dataset.from_dict({**encoded, "labels": split.labels, ROW: range(1, len(texts) + 1)})
    return Tokenised(rows.select(kept) if unread else rows, truncated, unread)
