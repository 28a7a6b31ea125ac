"""What goes into the modules of a model, and what they make of it, while the model reads texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import NotSupportedError
from .modeling import real_token_mask


@contextmanager
def recorded(modules: Sequence[nn.Module]) -> Iterator[list[list[tuple[Any, Any]]]]:
    """Inside, each call of a module adds its first input and its output to the list of that module."""
    calls: list[list[tuple[Any, Any]]] = [[] for _ in modules]
    handles = [
        module.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append((inputs[0], output)))
        for module, seen in zip(modules, calls, strict=True)
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def real_tokens(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Which tokens of tokenised texts are real, `[B, L]` bool."""
    return real_token_mask(*map(batch.get, ("input_ids", "inputs_embeds", "attention_mask")))


def mask_of(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mask `[B, L]` as long as the hidden states `[B, L', D]`, which some models pad.

    Raises NotSupportedError where they are a part of the text.
    """
    surplus = hidden.shape[1] - mask.shape[1]
    if surplus < 0:
        raise NotSupportedError("the model feeds its FFNs in chunks; set config.chunk_size_feed_forward = 0")
    return F.pad(mask, (0, surplus))


@torch.no_grad()
def inputs_of_real_tokens(
    model: nn.Module,
    modules: Sequence[nn.Module],
    batches: Iterable[Mapping[str, torch.Tensor]],
    max_tokens: int | None = None,
) -> list[torch.Tensor]:
    """The hidden states of real tokens that reach each module: `[T, D]` a module, T up to `max_tokens`.

    batches: tokenised texts on the device of the model. No more are read once there are `max_tokens`.
    """
    found: list[list[torch.Tensor]] = [[] for _ in modules]
    count = 0
    with recorded(modules) as calls:
        for batch in batches:
            mask = real_tokens(batch)
            model(**batch)
            for states, seen in zip(found, calls, strict=True):
                states += [inputs[mask_of(inputs, mask)] for inputs, _ in seen]
                seen.clear()
            count += int(mask.sum())
            if max_tokens is not None and count >= max_tokens:
                break
    return [torch.cat(states)[:max_tokens] for states in found]
