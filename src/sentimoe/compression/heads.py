"""Teach exit heads what the whole model answers; the layers below stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from ..inference import ExitHead
from ..inference.exits import batches

QUERIES, WIDTH = 4, 256
RATE, BATCH_TOKENS, EPOCHS, PATIENCE, HELD_OUT = 2e-3, 4096, 8, 3, 0.1


def taught_head(hidden: Sequence[np.ndarray], answers: np.ndarray, own: np.ndarray | None, seed: int) -> ExitHead:
    """A head whose answers are closest to the model's, by cross entropy on a tenth of the texts held out.

    hidden: states `[L, D]` of each of W texts. answers: the probabilities of the whole model `[W, C]`. own: logits
    `[W, C]` that the head's are added to, or None.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ExitHead(hidden[0].shape[1], QUERIES, WIDTH, answers.shape[1])
    _standardise(head, hidden)
    target = torch.from_numpy(answers)
    base = torch.zeros_like(target) if own is None else torch.from_numpy(own)
    order = torch.randperm(len(hidden), generator=generator).tolist()
    count = max(1, int(HELD_OUT * len(order)))
    held, train = _batched(hidden, order[:count]), _batched(hidden, order[count:])
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * len(train))

    def loss_of(batch: tuple[list[int], torch.Tensor, torch.Tensor], reduction: str = "mean") -> torch.Tensor:
        rows, states, mask = batch
        return F.cross_entropy(base[rows] + head(states.float(), mask), target[rows], reduction=reduction)

    @torch.no_grad()
    def held_out() -> float:
        return sum(float(loss_of(batch, "sum")) for batch in held)

    best, kept, waited = held_out(), _copy(head), 0
    for _ in range(EPOCHS):
        for place in torch.randperm(len(train), generator=generator).tolist():
            optimizer.zero_grad()
            loss_of(train[place]).backward()
            optimizer.step()
            schedule.step()
        if (score := held_out()) < best:
            best, kept, waited = score, _copy(head), 0
        elif (waited := waited + 1) >= PATIENCE:
            break
    head.load_state_dict(kept)
    return head.eval()


def _standardise(head: ExitHead, hidden: Sequence[np.ndarray]) -> None:
    """Give it mean and deviation of the tokens of some texts."""
    tokens = torch.from_numpy(np.concatenate(list(hidden[:1000]))).float()
    head.mean.copy_(tokens.mean(0))
    head.deviation.copy_(tokens.std(0).clamp_min(1e-6))


def _batched(hidden: Sequence[np.ndarray], rows: Sequence[int]) -> list[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Batches of these texts, of similar length together, as precise as given: rows, states and masks."""
    texts = [hidden[row] for row in rows]
    return [
        (
            [rows[place] for place in places],
            torch.from_numpy(states.astype(np.result_type(*{texts[place].dtype for place in places}))),
            torch.from_numpy(mask),
        )
        for places, states, mask in batches(texts, 0, BATCH_TOKENS)
    ]


def _copy(head: ExitHead) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in head.state_dict().items()}
