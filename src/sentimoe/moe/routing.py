"""The mask travels with each call, from the model's forward to its MoE layers, and the routing travels back.

No FFN sees the attention mask, so a `RoutingCall` is opened around the forward of the model and found by its MoE layers
through a context variable: every thread has its own, nested calls restore the outer one, nothing outlives the call.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .grouped import pad_to_multiple
from .losses import expert_load, expert_pairs, load_balancing_loss, router_z_loss

_active: ContextVar[RoutingCall | None] = ContextVar("sentimoe_routing_call", default=None)
_traced: list[RoutingCall] = []  # torch.compile follows a list, and no context variable; only used while it traces
_closed: ContextVar[Mapping[Any, Sequence[int]]] = ContextVar("sentimoe_closed_experts", default=MappingProxyType({}))


@dataclass(frozen=True)
class RealTokens:
    """Which of the flattened tokens `[B * L]` are real: worked out once per call, read by every MoE layer.

    mask: `[B * L]` bool. rows: `[T]` positions of the real ones; None when all are computed, because all are real or
    because the model is being compiled or exported, where sizes may not depend on data.
    padded_rows: `rows` and the first of them again, up to a multiple of 32.
    """

    mask: torch.Tensor
    rows: torch.Tensor | None
    padded_rows: torch.Tensor | None

    @classmethod
    def of(cls, mask: torch.Tensor) -> RealTokens:
        """mask: `[B, L]` bool."""
        flat = mask.flatten()
        if torch.compiler.is_compiling() or bool(flat.all()):
            return cls(flat, None, None)
        rows = flat.nonzero().squeeze(1)
        return cls(flat, rows, pad_to_multiple(rows))


@dataclass(frozen=True)
class LayerRouting:
    """What one MoE layer decided: `logits` `[T, E]` float32 and `experts` `[T, K]` int64, real tokens in text order.

    Compiled, there is a row for every token, and `real` `[B * L]` bool says which ones count.
    """

    logits: torch.Tensor
    experts: torch.Tensor
    real: torch.Tensor | None = None


@dataclass(frozen=True)
class Routing:
    """What the routers of one forward decided. `routing[i]` is the routing of text `i`.

    mask: `[B, L]` bool. layers: one per MoE layer, in the order in which they ran.
    """

    mask: torch.Tensor
    layers: tuple[LayerRouting, ...]
    router_aux_loss_coef: float
    router_z_loss_coef: float

    @property
    def router_logits(self) -> tuple[torch.Tensor, ...]:
        """One `[T, E]` float32 tensor per MoE layer."""
        return tuple(each.logits if each.real is None else each.logits[each.real] for each in self.layers)

    @property
    def expert_load(self) -> torch.Tensor:
        """`[N, E]`: the share of (token, choice) pairs of each expert."""
        return torch.stack([expert_load(each.experts, each.logits.shape[1], each.real) for each in self.layers])

    @property
    def expert_pairs(self) -> torch.Tensor:
        """`[N, E]`: how many (token, choice) pairs each expert reads."""
        return torch.stack([expert_pairs(each.experts, each.logits.shape[1], each.real) for each in self.layers])

    @property
    def num_experts_per_tok(self) -> int:
        """Experts that read each token, K."""
        return self.layers[0].experts.shape[1]

    @property
    def aux_loss(self) -> torch.Tensor:
        """The weighted sum of load-balancing loss and router z-loss, each a mean over the MoE layers."""
        return self.aux_loss_at(self.expert_load)

    def aux_loss_at(self, load: torch.Tensor) -> torch.Tensor:
        """The auxiliary loss of a part of a batch. load: `[N, E]`, of the whole batch.

        The losses of the parts, each times its share of the real tokens, add up to that of the batch.
        """
        balance = [
            load_balancing_loss(each.logits, each.experts, each.real, own)
            for each, own in zip(self.layers, load, strict=True)
        ]
        z = [router_z_loss(each.logits, each.real) for each in self.layers]
        balance_loss, z_loss = torch.stack(balance).mean(), torch.stack(z).mean()
        return self.router_aux_loss_coef * balance_loss + self.router_z_loss_coef * z_loss

    def __getitem__(self, text: int) -> Routing:
        owner = torch.arange(len(self.mask), device=self.mask.device)[:, None].expand_as(self.mask)
        own = owner[self.mask] == range(len(self.mask))[text]
        logits = [each[own] for each in self.router_logits]
        experts = [each.experts if each.real is None else each.experts[each.real] for each in self.layers]
        layers = tuple(LayerRouting(row, each[own]) for row, each in zip(logits, experts, strict=True))
        return Routing(self.mask[text][None], layers, self.router_aux_loss_coef, self.router_z_loss_coef)


class RoutingCall:
    """One forward of a model: which tokens are real, and what its MoE layers decide while it runs.

    mask: `[B, L]` bool, true for real tokens.
    """

    def __init__(self, mask: torch.Tensor):
        self.mask = mask
        self._whole: RealTokens | None = None
        self._parts: list[tuple[nn.Module, list[LayerRouting]]] = []
        self._seen: list[int] = []

    def __enter__(self) -> RoutingCall:
        if torch.compiler.is_compiling():
            _traced.append(self)
        else:
            self._token = _active.set(self)
        return self

    def __exit__(self, *exc_info) -> None:
        if torch.compiler.is_compiling():
            _traced.pop()
        else:
            _active.reset(self._token)

    def again(self) -> RoutingCall:
        """A fresh call over the same texts, for a recomputation during backward."""
        return RoutingCall(self.mask)

    def real_tokens(self, layer: nn.Module, hidden: torch.Tensor) -> RealTokens:
        """The real tokens among those of `hidden` `[B, L', D]`.

        `L' < L` when the model feeds its FFN in chunks along the sequence: the chunks of a layer come in order.
        `L' > L` when it pads texts on the right to the width of its attention windows (Longformer).
        Raises ValueError when the hidden states cannot be those of this call.
        """
        if not self._parts or self._parts[-1][0] is not layer:
            self._parts.append((layer, []))
            self._seen.append(0)
        start = self._seen[-1]
        if hidden.dim() == 3 and not start and hidden.shape[1] > self.mask.shape[1]:
            self.mask, self._whole = F.pad(self.mask, (0, hidden.shape[1] - self.mask.shape[1])), None
        batch, length = self.mask.shape
        if hidden.dim() != 3 or hidden.shape[0] != batch or start + hidden.shape[1] > length:
            raise ValueError(
                f"hidden states of shape {tuple(hidden.shape)} (from token {start}) do not fit the attention mask "
                f"{tuple(self.mask.shape)}"
            )
        self._seen[-1] = start + hidden.shape[1]
        if hidden.shape[1] < length:
            return RealTokens.of(self.mask[:, start : start + hidden.shape[1]])
        if self._whole is None:
            self._whole = RealTokens.of(self.mask)
        return self._whole

    def record(self, layer: nn.Module, routing: LayerRouting) -> None:
        """Keep what a layer decided; a layer fed in chunks records once a chunk."""
        self._parts[-1][1].append(routing)

    def result(self, router_aux_loss_coef: float, router_z_loss_coef: float) -> Routing:
        """The decisions of every MoE layer that ran, in order."""
        layers = tuple(self._joined(parts) for _, parts in self._parts)
        return Routing(self.mask, layers, router_aux_loss_coef, router_z_loss_coef)

    def _joined(self, parts: list[LayerRouting]) -> LayerRouting:
        if len(parts) == 1:
            return parts[0]
        # chunks come as (chunk, text, token): put the tokens back in text order
        position = torch.arange(self.mask.numel(), device=self.mask.device).view_as(self.mask)
        chunks = zip(position.chunk(len(parts), dim=1), self.mask.chunk(len(parts), dim=1), strict=True)
        if parts[0].real is None:
            order = torch.cat([where[real] for where, real in chunks]).argsort()
            real = None
        else:
            order = torch.cat([where.flatten() for where, _ in chunks]).argsort()
            real = self.mask.flatten()
        return LayerRouting(
            torch.cat([part.logits for part in parts])[order], torch.cat([part.experts for part in parts])[order], real
        )


def active_call() -> RoutingCall | None:
    """The call that the current thread is inside of; None when a module is run on its own."""
    if torch.compiler.is_compiling():
        return _traced[-1] if _traced else None
    return _active.get()


@contextmanager
def mask_experts(closed: Mapping[Any, Sequence[int]]) -> Iterator[None]:
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
        with _uncompiled():
            yield
    finally:
        _closed.reset(token)


def _uncompiled() -> AbstractContextManager:
    """Inside, compiled models run eagerly: what they traced knows nothing of closed experts."""
    loaded = sys.modules.get("torch._dynamo")  # nothing is compiled before it is imported
    return nullcontext() if loaded is None else torch.compiler.set_stance("force_eager")


def masked_logits(layer: nn.Module, logits: torch.Tensor) -> torch.Tensor:
    """Logits `[T, E]` with those of the layer's closed experts at minus infinity."""
    if torch.compiler.is_compiling():
        return logits
    closed = list(_closed.get().get(layer, ()))
    return logits.index_fill(-1, torch.tensor(closed, device=logits.device), -torch.inf) if closed else logits
