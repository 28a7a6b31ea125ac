"""Gradient checkpointing with experts: recomputation needs the mask that the forward had."""

from __future__ import annotations

import functools

from torch import nn

from ..errors import ConfigError
from ..moe import active_call


def carry_routing(model: nn.Module):
    """Hand the mask to checkpoints that were enabled before the conversion; returns the way back."""
    wrapped = {
        m: m._gradient_checkpointing_func for m in model.modules() if getattr(m, "gradient_checkpointing", False)
    }
    new = {module: with_routing(func) for module, func in wrapped.items()}
    for module, func in new.items():
        module._gradient_checkpointing_func = func

    def undo() -> None:
        for module, func in wrapped.items():
            module._gradient_checkpointing_func = func

    return undo


def with_routing(checkpoint_func):
    """Recomputation runs during backward, outside the forward (on a GPU in another thread): hand it the mask."""
    if getattr(checkpoint_func, "keywords", {}).get("use_reentrant"):
        raise ConfigError(
            "gradient checkpointing with use_reentrant=True cuts the gradient of the auxiliary losses; "
            "enable it with use_reentrant=False"
        )

    @functools.wraps(checkpoint_func)
    def checkpoint_with_routing(function, *args, **kwargs):
        call, first = active_call(), True

        def run(*inner_args, **inner_kwargs):
            nonlocal first
            if first or call is None:
                first = False
                return function(*inner_args, **inner_kwargs)
            with call.again():
                return function(*inner_args, **inner_kwargs)

        return checkpoint_func(run, *args, **kwargs)

    return checkpoint_with_routing
