"""Run a classifier segment by segment: texts whose answer is clear leave, and the others close up into new batches.

Legend: B texts of a batch, L tokens, D hidden, C classes, S segments, W texts (or windows of long ones).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import token_batches

TOKENS_AT_ONCE = 65_536  # hidden states that wait for the next segment: 100 MB at D = 384

# what runs a segment: ids `[B, L]` or hidden states `[B, L, D]`, and the mask -> states or logits, and mean states
Network = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class ExitHead(nn.Module):
    """Two linear layers on the mean hidden state, which they standardise first: `[B, D]` -> `[B, C]`.

    It starts at 0, so that the head after the last segment, whose answer is added to the model's own logits, starts as
    no change. mean, deviation: `[D]`, of the states that it is taught on.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, hidden_size: int, width: int, num_labels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("deviation", torch.ones(hidden_size))
        self.inner = nn.Linear(hidden_size, width)
        self.outer = nn.Linear(width, num_labels)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """The logits."""
        return self.outer(nn.functional.gelu(self.inner((pooled - self.mean) / self.deviation)))


@dataclass(frozen=True)
class Answers:
    """logits: `[W, C]`. layers: `[W]`, how many layers read each text."""

    logits: np.ndarray
    layers: np.ndarray


class StagedClassifier:
    """Networks, a head after each of them, and the confidence from which on a text leaves.

    networks, heads: S each. layers: how many layers the model has run after each of them. thresholds: S - 1; a text
    leaves where the highest probability is at least that. padding: the id that fills up. labels: C names; label_type:
    "int" where they are numbers; ordinal: whether they go from lowest to highest. max_length: tokens that the model
    reads at most.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        heads: Sequence[ExitHead],
        thresholds: Sequence[float],
        *,
        layers: Sequence[int],
        padding: int,
        labels: Sequence[str],
        label_type: str,
        ordinal: bool,
        max_length: int,
    ):
        self.networks, self.heads, self.padding = list(networks), [head.eval() for head in heads], padding
        self.thresholds = (*thresholds, -np.inf)  # nobody stays after the last
        self.layers, self.max_length, self.device = np.asarray(layers), max_length, torch.device("cpu")
        self.config = SimpleNamespace(
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label_type=label_type,
            ordinal=ordinal,
            problem_type=None,
        )

    def with_thresholds(self, thresholds: Sequence[float]) -> StagedClassifier:
        """The same networks and heads under other thresholds."""
        other = copy.copy(self)
        other.thresholds = (*thresholds, -np.inf)
        return other

    def answer(self, ids: Sequence[Sequence[int]], tokens_per_batch: int) -> Answers:
        """The logits of tokenised texts and how many layers read them."""
        logits = np.empty((len(ids), self.config.num_labels), dtype=np.float32)
        left = np.empty(len(ids), dtype=np.int64)

        def leaves(stage: int, rows: list[int], pooled: np.ndarray, own: np.ndarray | None) -> np.ndarray:
            answer = self.logits_after(stage, pooled, own)
            sure = softmax(answer).max(axis=1) >= self.thresholds[stage]
            going = np.asarray(rows)[sure]
            logits[going], left[going] = answer[sure], self.layers[stage]
            return sure

        self._run(ids, tokens_per_batch, leaves)
        return Answers(logits, left)

    def states(self, ids: Sequence[Sequence[int]], tokens_per_batch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The mean states after every segment, `[W, D]` each, and the model's own logits `[W, C]`: nobody leaves."""
        pooled_after: list[np.ndarray] = []
        logits = np.empty((len(ids), self.config.num_labels), dtype=np.float32)

        def leaves(stage: int, rows: list[int], pooled: np.ndarray, own: np.ndarray | None) -> np.ndarray:
            if stage == len(pooled_after):
                pooled_after.append(np.empty((len(ids), pooled.shape[1]), dtype=np.float32))
            pooled_after[stage][rows] = pooled
            if own is not None:
                logits[rows] = own
            return np.zeros(len(rows), dtype=bool)

        self._run(ids, tokens_per_batch, leaves)
        return pooled_after, logits

    @torch.inference_mode()
    def logits_after(self, stage: int, pooled: np.ndarray, own: np.ndarray | None) -> np.ndarray:
        """What the head of a stage answers; the last one adds to the model's own logits."""
        answer = self.heads[stage](torch.from_numpy(pooled)).numpy()
        return answer if own is None else answer + own

    def _run(
        self,
        ids: Sequence[Sequence[int]],
        tokens_per_batch: int,
        leaves: Callable[[int, list[int], np.ndarray, np.ndarray | None], np.ndarray],
    ) -> None:
        """Run all texts. leaves: of each batch, which rows go; told stage, texts, mean states and, last, logits."""
        last = len(self.networks) - 1
        for group in groups([len(text) for text in ids], TOKENS_AT_ONCE):
            states: dict[int, np.ndarray] = {}
            staying = group
            for stage, network in enumerate(self.networks):
                now, staying = staying, []
                for batch in token_batches([len(ids[text]) for text in now], tokens_per_batch):
                    rows = [now[index] for index in batch]
                    width = max(len(ids[text]) for text in rows)
                    mask = np.arange(width) < np.array([[len(ids[text])] for text in rows])
                    given = self._padded([states.pop(text) if stage else ids[text] for text in rows], width)
                    output, pooled = network(given, mask.astype(np.int64))
                    gone = leaves(stage, rows, pooled, output if stage == last else None)
                    if stage == last:
                        continue
                    for row in np.flatnonzero(~gone):
                        states[rows[row]] = output[row, : len(ids[rows[row]])].copy()  # not the whole batch
                        staying.append(rows[row])

    def _padded(self, texts: Sequence[Any], width: int) -> np.ndarray:
        first = np.asarray(texts[0])
        if first.ndim == 1:
            padded = np.full((len(texts), width), self.padding, dtype=np.int64)
        else:
            padded = np.zeros((len(texts), width, first.shape[1]), dtype=np.float32)
        for row, text in enumerate(texts):
            padded[row, : len(text)] = text
        return padded


def groups(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Texts in their order, as many at a time as have `most` tokens; a longer text has a group of its own."""
    group: list[int] = []
    tokens = 0
    for index, length in enumerate(lengths):
        if group and tokens + length > most:
            yield group
            group, tokens = [], 0
        group.append(index)
        tokens += length
    if group:
        yield group


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    return torch.from_numpy(logits).softmax(dim=-1).numpy()
