"""Texts as the trunk of a model reads them.

Legend: T texts, L tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data import clean_text, token_batches
from ..errors import DataError
from ..inference import Engine
from ..inference.routed import sharing
from ..inference.segments import Segment
from ..upcycle import mean_over_real_tokens

TOKENS = 4096  # of a batch


@dataclass(frozen=True)
class Read:
    """pooled: `[T, D]` float32, the mean state of each text. states: `[L, D]` of each, where asked for. rows: which of
    the texts these are: those with a token of their own."""

    pooled: np.ndarray
    states: list[torch.Tensor]
    rows: list[int]


class Trunk:
    """The first layers of a classifier. Long texts are cut, as in training."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, cut: int, precision: str):
        self.engine = Engine(model, tokenizer, precision=precision, long_texts="truncate")
        self.segment = sharing(Segment(model, 0, cut), self.engine.model)

    @torch.no_grad()
    def read(self, texts: Sequence[str], states: bool = False) -> Read:
        """Read texts. states: keep the states of every token, of 16 or 32 bits as the model computes.

        Raises DataError where the states do not fit into memory.
        """
        windows = self.engine.windows([clean_text(text) for text in texts])
        lengths = [len(each["input_ids"]) for each in windows.encodings]
        if states:
            self._check_memory(lengths)
        pooled: list[np.ndarray] = [np.empty(0)] * len(lengths)
        kept: list[torch.Tensor] = [torch.empty(0)] * len(lengths) if states else []
        for rows in token_batches(lengths, TOKENS):
            batch = self.engine.batch([windows.encodings[row] for row in rows])
            (hidden,) = self.segment(batch["input_ids"], batch["attention_mask"])
            means = mean_over_real_tokens(hidden.float(), batch["attention_mask"]).cpu().numpy()
            for place, row in enumerate(rows):
                pooled[row] = means[place]
                if states:
                    kept[row] = hidden[place, : lengths[row]].cpu().clone()
        return Read(np.array(pooled, dtype=np.float32), kept, list(windows.owner))

    def _check_memory(self, lengths: Sequence[int]) -> None:
        model = self.engine.model
        width = model.config.get_text_config().hidden_size * next(model.parameters()).element_size()
        needed, free = sum(lengths) * width, psutil.virtual_memory().available
        if needed > free:
            raise DataError(
                f"the states of {len(lengths):,} texts with {sum(lengths):,} tokens take {needed / 1e9:.1f} GB, and "
                f"{free / 1e9:.1f} GB are free; give fewer texts"
            )
