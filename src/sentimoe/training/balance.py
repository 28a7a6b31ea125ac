"""Whether routers use their experts: one that reads nearly all tokens, or next to none for long, is told."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from ..upcycle import layer_numbers

SHARES = "expert_shares"  # of a logged row: per MoE layer the share of the tokens of one batch that each expert reads
CROWDED, STARVED = 0.9, 0.01
STARVED_ROWS = 10  # logged rows in a row, which are 100 steps
logger = logging.getLogger(__name__)


def expert_shares(load: torch.Tensor, num_experts_per_tok: int) -> list[list[float]]:
    """Shares of the tokens. load: `[N, E]`, shares of the (token, choice) pairs."""
    return [[round(share, 4) for share in layer] for layer in (load * num_experts_per_tok).tolist()]


def unbalanced(history: Sequence[Mapping[str, Any]], layers: Sequence[int]) -> list[dict[str, Any]]:
    """The experts that at some time read more than 90% of the tokens, or less than 1% for 100 steps or more.

    layers: the numbers of the MoE layers. Of each `layer` and `expert`: `reads` "nearly all" or "next to none", its
    `share` of the tokens then (the most extreme one), `first_step` and `last_step`. None in layers whose experts all
    read every token.
    """
    rows = [row for row in history if SHARES in row]
    if not rows:
        return []
    steps, shares = [row["step"] for row in rows], np.array([row[SHARES] for row in rows])
    found = []
    for place, expert in np.ndindex(shares.shape[1:]):
        one = shares[:, place, expert]
        crowded = (one > CROWDED) & (shares[:, place].min(axis=1) < 1)
        for reads, when, least, extreme in (
            ("nearly all", crowded, 1, one.max()),
            ("next to none", one < STARVED, STARVED_ROWS, one.min()),
        ):
            if spells := _spells(when, least):
                reading = {"layer": layers[place], "expert": expert, "reads": reads, "share": float(extreme)}
                found.append(reading | {"first_step": steps[spells[0][0]], "last_step": steps[spells[-1][1]]})
    return found


def _spells(when: np.ndarray, least: int) -> list[tuple[int, int]]:
    """First and last index of every unbroken stretch of at least so many rows."""
    edges = np.flatnonzero(np.diff(when.astype(int), prepend=0, append=0))
    return [(start, end - 1) for start, end in zip(edges[::2], edges[1::2], strict=True) if end - start >= least]


class WarnOfImbalance(TrainerCallback):
    """Tells in the log, once of each expert, when it reads nearly all tokens or has read next to none for long."""

    def __init__(self) -> None:
        self.reported: set[tuple[int, int, str]] = set()

    def on_log(self, args, state, control, model=None, **kwargs):
        if SHARES not in state.log_history[-1]:
            return
        rows = [row for row in state.log_history if SHARES in row][-STARVED_ROWS:]
        for found in unbalanced(rows, layer_numbers(model)):
            key = (found["layer"], found["expert"], found["reads"])
            if key not in self.reported:
                self.reported.add(key)
                logger.warning(
                    "expert %d of layer %d reads %s of the tokens (%.1f%%, step %d); a larger router_aux_loss_coef "
                    "or a smaller router_learning_rate spreads them",
                    *(key[1], key[0], key[2], 100 * found["share"], found["last_step"]),
                )
