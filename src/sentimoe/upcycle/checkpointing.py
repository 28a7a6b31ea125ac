"""Gradient checkpointing with experts: recomputation needs the mask that the forward had."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..errors import ConfigError
from ..moe import active_call


def with_routing(checkpoint_func: Callable[..., Any]) -> Callable[..., Any]:
    """Hand the mask to the recomputation, which runs during backward, on a GPU in another thread.

    Raises ConfigError for reentrant checkpointing, which cuts the gradient of the auxiliary losses.
    """
    if getattr(checkpoint_func, "keywords", {}).get("use_reentrant"):
        raise ConfigError(
            "gradient checkpointing with use_reentrant=True cuts the gradient of the auxiliary losses; "
            "enable it with use_reentrant=False"
        )
    return functools.partial(checkpoint_func, context_fn=_contexts)


def _contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
    """What the forward of a checkpoint and its recomputation run in."""
    call = active_call()
    return nullcontext(), nullcontext() if call is None else call.again()
