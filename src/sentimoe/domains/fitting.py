"""Train the top of a domain on the states after the trunk, which are computed once.

Legend: B texts, L tokens, D hidden, C labels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import get_linear_schedule_with_warmup

from ..errors import DivergedError
from ..inference.segments import Segment
from ..training.sizes import FEW, READ
from .updates import KINDS, start, updates_of

BATCH, LENGTHS, WARMUP = 32, 16, 0.1  # with few texts a step reads half as many
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """Texts as the trunk left them. states: `[L, D]` of each. labels: `[B]`."""

    states: Sequence[torch.Tensor]
    labels: Sequence[int]

    @property
    def batch(self) -> int:
        """Texts of a step."""
        return BATCH // 2 if len(self.states) < FEW else BATCH

    @property
    def steps(self) -> int:
        """Of one pass."""
        return math.ceil(len(self.states) / self.batch)

    def batches(self, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, ...]]:
        """States `[B, L, D]`, mask `[B, L]` and labels `[B]`; texts of similar length together, in random order."""
        order = torch.randperm(len(self.states), generator=generator).tolist()
        order.sort(key=lambda row: len(self.states[row]) // LENGTHS)  # random among those of about the same length
        for place in torch.randperm(self.steps, generator=generator).tolist():
            rows = order[place * self.batch : (place + 1) * self.batch]
            states = nn.utils.rnn.pad_sequence([self.states[row] for row in rows], batch_first=True)
            lengths = torch.tensor([len(self.states[row]) for row in rows])
            mask = (torch.arange(states.shape[1]) < lengths[:, None]).long()
            yield states, mask, torch.tensor([self.labels[row] for row in rows])


def train_top(
    top: Segment,
    kind: str,
    train: Examples,
    validation: Examples,
    *,
    epochs: int | None,
    rate: float,
    seed: int,
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    """The updates of the epoch with the lowest cross entropy on validation. The top is changed.

    epochs: None: 4, up to 20 for few texts. rate: of full fine-tuning; a kind that trains few weights has a higher one.
    dtype: bfloat16 computes in it where that is safe. Raises DivergedError where the loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(top.model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start(top, kind)
        trained = [parameter for parameter in top.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, rate * KINDS[kind][1], weight_decay=0.01)
        epochs = epochs or min(max(math.ceil(READ / len(train.states)), 4), 20)
        steps = epochs * train.steps
        schedule = get_linear_schedule_with_warmup(optimizer, round(WARMUP * steps), steps)

        def loss_of(batch: tuple[torch.Tensor, ...], reduction: str = "mean") -> torch.Tensor:
            states, mask, labels = (each.to(device) for each in batch)
            with _in(dtype, device):
                _, logits = top(states.float(), mask)
            return F.cross_entropy(logits.float(), labels, reduction=reduction)

        @torch.no_grad()
        def held_out() -> float:
            top.eval()
            each = torch.Generator().manual_seed(seed)
            return sum(float(loss_of(batch, "sum")) for batch in validation.batches(each)) / len(validation.labels)

        best, kept = held_out(), updates_of(top)
        for epoch in range(epochs):
            top.train()
            for batch in train.batches(generator):
                optimizer.zero_grad()
                loss = loss_of(batch)
                if not loss.isfinite():
                    raise DivergedError("training of the domain diverged: its loss is not finite; lower learning_rate")
                loss.backward()
                nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                schedule.step()
            score = held_out()
            logger.info("epoch %d of %d: cross entropy %.4f on validation", epoch + 1, epochs, score)
            if score < best:
                best, kept = score, updates_of(top)
    return kept


def _in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
