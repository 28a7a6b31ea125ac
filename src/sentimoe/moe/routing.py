"""The mask travels with each call, from the model's forward to its MoE layers, and the routing travels back.

No FFN sees the attention mask, so a `RoutingCall` is opened around the forward of the model and found by its MoE layers
through a context variable: every thread has its own, nested calls restore the outer one, nothing outlives the call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

_active: ContextVar[RoutingCall | None] = ContextVar("sentimoe_routing_call", default=None)
_closed: ContextVar[Mapping[Any, Sequence[int]]] = ContextVar("sentimoe_closed_experts", default=MappingProxyType({}))


@dataclass(frozen=True)
class LayerRouting:
    """What one MoE layer decided: `logits` `[T, E]` float32 and `experts` `[T, K]` int64, real tokens in text order."""

    logits: torch.Tensor
    experts: torch.Tensor


class RoutingCall:
    """One forward of a model: which tokens are real, and what its MoE layers decided (in the order they ran).

    mask: `[B, L]` bool, true for real tokens.
    """

    def __init__(self, mask: torch.Tensor):
        self.mask = mask
        self._parts: dict[nn.Module, list[LayerRouting]] = {}
        self._seen: dict[nn.Module, int] = {}

    def __enter__(self) -> RoutingCall:
        self._token = _active.set(self)
        return self

    def __exit__(self, *exc_info) -> None:
        _active.reset(self._token)

    def again(self) -> RoutingCall:
        """A fresh call over the same texts, for a recomputation during backward."""
        return RoutingCall(self.mask)

    def real_tokens(self, layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor | None:
        """Flat positions `[T]` of the real tokens among those of `hidden` `[B, L', D]`; None when all are real.

        `L' < L` when the model feeds its FFN in chunks along the sequence: the chunks of a layer come in order.
        `L' > L` when it pads texts on the right to the width of its attention windows (Longformer).
        Raises ValueError when the hidden states cannot be those of this call.
        """
        batch, length = self.mask.shape
        start = self._seen.get(layer, 0)
        if hidden.dim() == 3 and not start and hidden.shape[1] > length:
            self.mask = F.pad(self.mask, (0, hidden.shape[1] - length))
            length = hidden.shape[1]
        if hidden.dim() != 3 or hidden.shape[0] != batch or start + hidden.shape[1] > length:
            raise ValueError(
                f"hidden states of shape {tuple(hidden.shape)} (from token {start}) do not fit the attention mask "
                f"{tuple(self.mask.shape)}"
            )
        self._seen[layer] = start + hidden.shape[1]
        mask = self.mask[:, start : start + hidden.shape[1]]
        if not torch.compiler.is_compiling() and bool(mask.all()):
            return None
        return mask.flatten().nonzero().squeeze(1)

    def record(self, layer: nn.Module, routing: LayerRouting) -> None:
        """Keep what a layer decided; a layer fed in chunks records once a chunk."""
        self._parts.setdefault(layer, []).append(routing)

    @property
    def layers(self) -> tuple[LayerRouting, ...]:
        """The decisions of every MoE layer that ran, in order."""
        return tuple(self._joined(parts) for parts in self._parts.values())

    def _joined(self, parts: list[LayerRouting]) -> LayerRouting:
        if len(parts) == 1:
            return parts[0]
        # chunks come as (chunk, text, token): put the tokens back in text order
        position = torch.arange(self.mask.numel(), device=self.mask.device).view_as(self.mask)
        chunks = zip(position.chunk(len(parts), dim=1), self.mask.chunk(len(parts), dim=1), strict=True)
        order = torch.cat([where[real] for where, real in chunks]).argsort()
        return LayerRouting(
            torch.cat([part.logits for part in parts])[order], torch.cat([part.experts for part in parts])[order]
        )


def active_call() -> RoutingCall | None:
    """The call that the current thread is inside of; None when a module is run on its own."""
    return _active.get()


@contextmanager
def closed_experts(closed: Mapping[Any, Sequence[int]]) -> Iterator[None]:
    """Inside, no token is routed to these experts of these MoE layers; the next best ones take their place.

    Of this thread alone, and nothing outlives it; what an outer one closed stays closed. Raises ValueError when fewer
    than `K` experts stay open.
    """
    for layer, experts in closed.items():
        experts = (*_closed.get().get(layer, ()), *experts)
        count, k = layer.experts.num_experts, layer.num_experts_per_tok
        if not set(experts) <= set(range(count)) or count - len(set(experts)) < k:
            raise ValueError(
                f"experts {sorted(set(experts))} cannot be closed: the layer has {count}, numbered from 0, and {k} of "
                "them must read each token"
            )
    outer = _closed.get()
    both = {layer: (*outer.get(layer, ()), *closed.get(layer, ())) for layer in {**outer, **closed}}
    token = _closed.set(both)
    try:
        yield
    finally:
        _closed.reset(token)


def open_experts(layer: nn.Module, logits: torch.Tensor) -> torch.Tensor:
    """Logits `[T, E]` with those of the layer's closed experts at minus infinity."""
    closed = list(_closed.get().get(layer, ()))
    return logits.index_fill(-1, torch.tensor(closed, device=logits.device), -torch.inf) if closed else logits
