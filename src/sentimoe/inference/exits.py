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
from .openvino import padded_width

TOKENS_AT_ONCE = 65_536  # hidden states that wait for the next segment: 100 MB at D = 384

# what runs a segment: ids `[B, L]` or hidden states `[B, L, D]`, and the mask -> states, and after the last one logits
Network = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray | None]]


class ExitHead(nn.Module):
    """Means of the hidden states under learned weights, then two linear layers: `[B, L, D]` -> `[B, C]`.

    Each of Q queries gives every token a weight (attention pooling); one more mean has equal weights. The head starts
    at 0, so that the one after the last segment, whose answer is added to the model's own logits, starts as no change.
    mean, deviation: `[D]`, of the states that it is taught on; it standardises by them.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, hidden_size: int, queries: int, width: int, num_labels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("deviation", torch.ones(hidden_size))
        self.queries = nn.Linear(hidden_size, queries, bias=False)  # softmax over tokens takes a bias away
        self.inner = nn.Linear((queries + 1) * hidden_size, width)
        self.outer = nn.Linear(width, num_labels)
        nn.init.normal_(self.queries.weight, std=0.02)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The logits. mask: `[B, L]`, whether a token is real."""
        scores = hidden @ (self.queries.weight / self.deviation).T
        scores = torch.cat([torch.zeros_like(scores[..., :1]), scores], dim=2)  # equal weights first
        weights = scores.masked_fill(~mask.bool().unsqueeze(-1), -torch.inf).softmax(dim=1)
        means = (weights.transpose(1, 2) @ hidden - self.mean) / self.deviation  # the weights of a text sum to 1
        return self.outer(nn.functional.gelu(self.inner(means.flatten(1))))


@dataclass(frozen=True)
class Answers:
    """logits: `[W, C]`. layers: `[W]`, how many layers read each text, where texts leave early.

    domains: `[W]`, the place of the top that answered among a model and its domains, and domain_scores: `[W]`, how sure
    the router is of that; of a model with added domains.
    """

    logits: np.ndarray
    layers: np.ndarray | None = None
    domains: np.ndarray | None = None
    domain_scores: np.ndarray | None = None


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

        def leaves(stage: int, rows: list[int], answer: np.ndarray) -> np.ndarray:
            sure = ~(softmax(answer).max(axis=1) < self.thresholds[stage])  # an answer that is no number leaves too
            going = np.asarray(rows)[sure]
            logits[going], left[going] = answer[sure], self.layers[stage]
            return sure

        self._run(ids, tokens_per_batch, leaves)
        return Answers(logits, left)

    def answers_after_all(self, ids: Sequence[Sequence[int]], tokens_per_batch: int) -> np.ndarray:
        """The logits of each text after every segment, `[S, W, C]`: nobody leaves."""
        logits = np.empty((len(self.networks), len(ids), self.config.num_labels), dtype=np.float32)

        def leaves(stage: int, rows: list[int], answer: np.ndarray) -> np.ndarray:
            logits[stage, rows] = answer
            return np.zeros(len(rows), dtype=bool)

        self._run(ids, tokens_per_batch, leaves)
        return logits

    def _run(
        self,
        ids: Sequence[Sequence[int]],
        tokens_per_batch: int,
        leaves: Callable[[int, list[int], np.ndarray], np.ndarray],
    ) -> None:
        """Run all texts. leaves: of each batch, which rows go; told the stage, the rows and their logits."""
        for group in groups([len(text) for text in ids], TOKENS_AT_ONCE):
            states: dict[int, Any] = {text: ids[text] for text in group}
            for stage, network in enumerate(self.networks):
                now, before, states = list(states), states, {}
                texts = [before[text] for text in now]
                for batch, given, mask in batches(texts, self.padding, tokens_per_batch, self.max_length):
                    rows = [now[index] for index in batch]
                    hidden, own = network(given, mask)
                    gone = leaves(stage, rows, answered(self.heads[stage], hidden, mask, own))
                    if stage == len(self.networks) - 1:
                        continue
                    for row in np.flatnonzero(~gone):
                        states[rows[row]] = hidden[row, : len(before[rows[row]])].copy()  # not the whole batch


@torch.inference_mode()
def answered(head: ExitHead, hidden: np.ndarray, mask: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """The logits of a head, added to the model's own after the last segment."""
    answer = head(torch.from_numpy(hidden), torch.from_numpy(mask)).numpy()
    return answer if own is None else answer + own


def batches(
    texts: Sequence[Any], padding: int, tokens_per_batch: int, most: int = 0
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Texts of similar length together: their places, ids or hidden states padded, and the mask.

    texts: ids, or hidden states `[L, D]`. most: tokens that the model reads, for
    `padded_width`; 0: no batch is wider than its longest text.
    """
    for rows in token_batches([len(text) for text in texts], tokens_per_batch):
        width = padded_width(max(len(texts[row]) for row in rows), len(rows), most)
        first = np.asarray(texts[rows[0]])
        if first.ndim == 1:
            padded = np.full((len(rows), width), padding, dtype=np.int64)
        else:
            padded = np.zeros((len(rows), width, first.shape[1]), dtype=np.float32)
        for place, row in enumerate(rows):
            padded[place, : len(texts[row])] = texts[row]
        mask = np.arange(width) < np.array([[len(texts[row])] for row in rows])
        yield list(rows), padded, mask.astype(np.int64)


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
