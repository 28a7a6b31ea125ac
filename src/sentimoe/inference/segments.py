"""A classifier cut between its layers, so that a text may leave after any of the pieces.

A segment is the classifier itself, run with hidden states put in before its first layer and taken out after its last.
Masks, positions and heads stay what the architecture makes of them, so every family works.
Legend: B texts, L tokens, D hidden, C classes, N layers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import ConfigError, NotSupportedError
from ..upcycle import transformer_layers
from .conversion import padded_probe, probe_lengths


@dataclass
class _States:
    """Of one call: given to the first layer of a segment, taken from its last one. `[B, L, D]`."""

    given: torch.Tensor
    taken: torch.Tensor | None = None


_call: ContextVar[_States] = ContextVar("call")  # of each thread its own


class Segment(nn.Module):
    """Layers `start` to `stop` of a classifier, as a network of its own.

    Takes `input_ids` `[B, L]` where it begins the model, else the hidden states `[B, L, D]` of the segment before; and
    gives the states after its last layer. The one that ends the model gives the model's logits `[B, C]` too.
    """

    def __init__(self, model: PreTrainedModel, start: int, stop: int):
        super().__init__()
        self.model = copy.deepcopy(model).eval()
        self.model.config.get_text_config().use_cache = False
        layers = transformer_layers(self.model, self.model.config.get_text_config().num_hidden_layers)
        self._padding = self.model.config.get_text_config().pad_token_id or 0
        self._any_id = 1 if self._padding == 0 else 0
        self.begins, self.ends = start == 0, stop == len(layers)
        self.own_layers = tuple(layers[start:stop])  # not registered once more: they belong to `model`
        length = _tuple_length(model)
        for index, layer in enumerate(layers):
            if not start <= index < stop:
                layers[index] = _Skipped(layer, length)
        if not self.begins:
            layers[start].register_forward_pre_hook(self._put_in)
        layers[stop - 1].register_forward_hook(self._take_out)
        self._classify = getattr(self.model, "classify", self.model.forward)

    def forward(self, tokens: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """tokens: ids or hidden states. Returns hidden states, and in the end logits."""
        ids, states = tokens, _States(tokens)
        if not self.begins:
            ids = torch.where(attention_mask.bool(), self._any_id, self._padding)  # the head of a decoder looks at them
        outer = _call.set(states)
        try:
            logits = self._classify(input_ids=ids, attention_mask=attention_mask).logits
        finally:
            _call.reset(outer)
        assert states.taken is not None
        return (states.taken, logits) if self.ends else (states.taken,)

    def _put_in(self, layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return _call.get().given, *given[1:]

    def _take_out(self, layer: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        _call.get().taken = output[0] if isinstance(output, tuple) else output


class _Skipped(nn.Module):
    """In place of a layer that is not run: gives its input back, and answers what the model asks of the layer."""

    def __init__(self, layer: nn.Module, tuple_length: int):
        super().__init__()
        kept = {name: value for name, value in vars(layer).items() if not name.startswith("_") and name != "training"}
        vars(self).update(kept)
        self._tuple_length = tuple_length

    def forward(self, hidden: torch.Tensor, *rest: Any, **named: Any) -> Any:
        return (hidden, *[None] * (self._tuple_length - 1)) if self._tuple_length else hidden


@torch.no_grad()
def _tuple_length(model: PreTrainedModel) -> int:
    """Of what the layers of a model give; 0 where that is no tuple."""
    seen: list[int] = []
    layers = transformer_layers(model, model.config.get_text_config().num_hidden_layers)
    hook = layers[0].register_forward_hook(
        lambda layer, given, output: seen.append(len(output) if isinstance(output, tuple) else 0)
    )
    try:
        model(**padded_probe(model))
    finally:
        hook.remove()
    return seen[0]


def check_cuts(cuts: Sequence[int], num_layers: int) -> None:
    """Raises ConfigError for numbers of layers after which a model cannot be cut."""
    if sorted(set(cuts)) != list(cuts) or any(not 0 < cut < num_layers for cut in cuts):
        raise ConfigError(f"cuts={tuple(cuts)} must be rising numbers of layers, each between 1 and {num_layers - 1}")


def segments(model: PreTrainedModel, cuts: Sequence[int]) -> list[Segment]:
    """The model cut after these numbers of layers: one segment more than there are cuts. Raises ConfigError."""
    count = model.config.get_text_config().num_hidden_layers
    check_cuts(cuts, count)
    borders = [0, *cuts, count]
    return [Segment(model, start, stop) for start, stop in pairwise(borders)]


@torch.no_grad()
def check_segments(model: PreTrainedModel, cuts: Sequence[int], max_length: int) -> None:
    """Raises NotSupportedError where the model cut after these numbers of layers does not answer as it does whole.

    max_length: tokens that it reads at most.
    """
    parts = segments(model, cuts)
    for lengths in probe_lengths(model, max_length):
        probe = padded_probe(model, *lengths)
        whole, states = model(**probe).logits, probe["input_ids"]
        for segment in parts:
            states, *logits = segment(states, probe["attention_mask"])
        if not torch.allclose(logits[0], whole, rtol=1e-3, atol=1e-3):
            raise NotSupportedError(
                f"a {type(model).__name__} cannot be cut between its layers: its answers move by "
                f"{float((logits[0] - whole).abs().max()):.2g}. Models that read learned tokens before a text are such"
            )
