"""A classifier with added domains: one trunk reads every text, and a router sends it to the base's top or a domain's.

A domain is a top of its own: the last layers with changed weights. All other weights are the base's, and shared.
Legend: B texts of a batch, L tokens, D hidden, C labels of all tops, M domains, W windows, T texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..data import token_batches
from ..upcycle import is_ordinal, label_type, mean_over_real_tokens
from .exits import Answers
from .lengths import position_limit
from .precision import in_precision
from .segments import Segment

BASE = "base"  # the name under which the model itself answers
DOWN, UP = ".lora_A", ".lora_B"  # `[r, in]`, and `[out, r]` with the scale of the updates in it


@dataclass(frozen=True)
class Domain:
    """An added domain, as it is stored.

    labels: its C' names, in the order of its head; label_type: "int" where they are numbers. cut: how many layers the
    trunk has. weight: `[D]`, and bias: the router takes a text where weight @ pooled + bias is above 0. updates:
    weights of the top by name, whole or as low-rank updates (`NAME.lora_A`, `NAME.lora_B`).
    """

    name: str
    labels: list[str]
    label_type: str
    cut: int
    weight: np.ndarray
    bias: float
    updates: Mapping[str, torch.Tensor]


class RoutedClassifier:
    """A base and its domains, in the order in which they were added.

    model: the base, in float32; it is not changed. fixed: the name of the only one that answers; None: each text goes
    where the router sends it: to the newest domain that takes it, else to the base. So a domain that is added can take
    texts, but never move one among the others.
    """

    def __init__(self, model: PreTrainedModel, domains: Sequence[Domain], dtype: torch.dtype, fixed: str | None = None):
        self.domains, self.cut = list(domains), domains[0].cut
        cut, count = self.cut, model.config.get_text_config().num_hidden_layers
        self.device, self.max_length = model.device, position_limit(model)
        self.names = [BASE, *(domain.name for domain in domains)]
        self.fixed = None if fixed is None else self.names.index(fixed)
        own = [model.config.id2label[index] for index in range(model.config.num_labels)]
        used = [own, *(domain.labels for domain in domains)]
        kinds = [label_type(model.config), *(domain.label_type for domain in domains)]
        if self.fixed is not None:
            used, kinds = [used[self.fixed]] * len(used), [kinds[self.fixed]]
        labels = list(dict.fromkeys(label for each in used for label in each))
        self.columns = [[labels.index(label) for label in each] for each in used]
        self.config = SimpleNamespace(
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label_type="int" if set(kinds) == {"int"} else "str",
            ordinal=is_ordinal(model.config) and all(each == own for each in used),
            problem_type=None,
        )
        self.weight = np.stack([domain.weight for domain in domains]).astype(np.float32)
        self.bias = np.array([domain.bias for domain in domains], dtype=np.float32)
        shared = in_precision(model, dtype)
        self.trunk = sharing(Segment(model, 0, cut), shared)
        self.tops = [sharing(Segment(model, cut, count), shared)]
        for domain in domains:
            changed = {name: each.to(dtype) for name, each in changed_weights(model, domain.updates).items()}
            self.tops.append(sharing(Segment(model, cut, count), shared, changed))

    def route(self, scores: np.ndarray) -> np.ndarray:
        """Router scores `[..., M]` -> the top that answers `[...]`; 0 is the base."""
        if self.fixed is not None:
            return np.full(scores.shape[:-1], self.fixed)
        return routed(scores)

    def scores(self, pooled: np.ndarray) -> np.ndarray:
        """Pooled states `[..., D]` -> router scores `[..., M]`."""
        return pooled @ self.weight.T + self.bias

    @torch.inference_mode()
    def answer(self, batch_of: Any, lengths: Sequence[int], owner: Sequence[int], tokens_per_batch: int) -> Answers:
        """The logits `[W, C]`, -inf for labels of other tops. A text is routed as a whole, by the mean of its windows.

        batch_of: places of windows -> the padded batch. lengths, owner: `[W]`, tokens and text of each window.
        """
        count = len(lengths)
        logits = np.full((count, self.config.num_labels), -np.inf, dtype=np.float32)
        scores, asked = np.empty((count, len(self.names) - 1), dtype=np.float32), np.empty(count, dtype=np.int64)
        for rows in token_batches(lengths, tokens_per_batch):
            states, mask = self._read(batch_of(rows))
            scores[rows] = self.scores(mean_over_real_tokens(states.float(), mask).cpu().numpy())
            asked[rows] = self.route(scores[rows])
            self._ask(states, mask, rows, asked, logits)
        of_texts = _mean_of_texts(scores, np.asarray(lengths), np.asarray(owner, dtype=np.int64))
        going = self.route(of_texts)
        others = np.flatnonzero(going != asked).tolist()  # windows of long texts that would go elsewhere by themselves
        logits[others] = -np.inf
        for part in token_batches([lengths[row] for row in others], tokens_per_batch):
            rows = [others[place] for place in part]
            self._ask(*self._read(batch_of(rows)), rows, going, logits)
        return Answers(logits, domains=going, domain_scores=self._probability(of_texts, going))

    def _read(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """States `[B, L, D]` after the trunk, and the mask."""
        (states,) = self.trunk(batch["input_ids"], batch["attention_mask"])
        return states, batch["attention_mask"]

    def _ask(
        self, states: torch.Tensor, mask: torch.Tensor, rows: Sequence[int], going: np.ndarray, logits: np.ndarray
    ) -> None:
        """Run each text of a batch through its top. rows: where its answer goes."""
        places = np.asarray(rows)
        for top in np.unique(going[places]).tolist():
            own = np.flatnonzero(going[places] == top)
            given = (states, mask) if len(own) == len(places) else (states[own], mask[own])
            _, found = self.tops[top](*given)
            logits[np.ix_(places[own], self.columns[top])] = found.float().cpu().numpy()

    def _probability(self, scores: np.ndarray, going: np.ndarray) -> np.ndarray:
        """How sure the router is of where each text goes `[T]`, from its scores `[T, M]`; 1 where it is not asked."""
        if self.fixed is not None:
            return np.ones(len(going), dtype=np.float32)
        taken = 1 / (1 + np.exp(-np.clip(scores, -50, 50)))
        alone = 1 - taken.max(axis=1, keepdims=True)
        return np.take_along_axis(np.hstack([alone, taken]), going[:, None], axis=1)[:, 0].astype(np.float32)


def routed(scores: np.ndarray) -> np.ndarray:
    """Router scores `[..., M]` -> the newest domain whose score is above 0, counted from 1; 0: none, the base."""
    takes = scores > 0
    newest = scores.shape[-1] - np.argmax(takes[..., ::-1], axis=-1)
    return np.where(takes.any(axis=-1), newest, 0)


def _mean_of_texts(scores: np.ndarray, lengths: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """For each window `[W, M]` the scores of its text: the router is linear, so they are those of its mean state."""
    texts = int(owner.max(initial=-1)) + 1
    total, weight = np.zeros((texts, scores.shape[1])), np.zeros(texts)
    np.add.at(total, owner, scores * lengths[:, None])
    np.add.at(weight, owner, lengths)
    alone = np.bincount(owner, minlength=texts) == 1
    found = (total[owner] / weight[owner][:, None]).astype(np.float32)
    return np.where(alone[owner][:, None], scores, found)  # of one window: exactly its own


def sharing(segment: Segment, model: PreTrainedModel, changed: Mapping[str, torch.Tensor] | None = None) -> Segment:
    """The segment with the weights of the model itself in place of its copies, and with the changed ones."""
    own = changed or {}
    for name, _ in list(segment.model.named_parameters()):
        value = own.get(name)
        parameter = model.get_parameter(name) if value is None else nn.Parameter(value, requires_grad=False)
        put(segment.model, name, parameter)
    for name, _ in list(segment.model.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        setattr(segment.model.get_submodule(owner), leaf, model.get_buffer(name))
    return segment


def put(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Replace a parameter of a model, also by one of another shape."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, parameter)


def changed_weights(model: PreTrainedModel, updates: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights that updates change, by name, in float32.

    Raises AttributeError, KeyError or RuntimeError for updates of another model.
    """
    found = {}
    for name, tensor in updates.items():
        if name.endswith(DOWN):
            whole = name.removesuffix(DOWN)
            found[whole] = model.get_parameter(whole).float() + updates[whole + UP].float().to(model.device) @ (
                tensor.float().to(model.device)
            )
        elif not name.endswith(UP):
            model.get_parameter(name)
            found[name] = tensor.float().to(model.device)
    return found
