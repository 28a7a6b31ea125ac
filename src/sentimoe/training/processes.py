"""Several processes that train one model, as `torchrun` and `accelerate launch` start them.

Each runs the whole command. All agree on what decides, and the first one alone writes and tells. A process on its own
is the first of one, and pays nothing for this.
"""

from __future__ import annotations

import atexit
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from ..data.text import one_line
from ..errors import ConfigError, LostProcessError, SentiMoEError

LOST = re.compile(r"/gloo/|pair closure|NCCL")  # in the plain RuntimeErrors of torch when another process is gone
Value = TypeVar("Value")


@contextmanager
def together(timeout: float) -> Iterator[None]:
    """Inside, the processes that a launcher started know each other, and none leaves before all are done.

    A group that is there already is used; this one stays until the process ends, as it cannot be made twice.
    timeout: seconds that one waits for another. Raises ConfigError where they do not find each other, and
    LostProcessError where one ends or does not answer.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        _meet(timeout)
    with lost_told():
        try:
            yield
            wait()
        except BaseException:
            atexit.unregister(distributed.destroy_process_group)  # which may wait for the others, who wait for this one
            raise


def _meet(timeout: float) -> None:
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # a lost process is an error here, not an abort
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    try:
        distributed.init_process_group(backend, timeout=timedelta(seconds=timeout))
    except (ValueError, distributed.DistError) as error:
        raise ConfigError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} stands for several processes, but they do not find each other "
            f"({error}); start them with torchrun or accelerate launch"
        ) from error
    atexit.register(distributed.destroy_process_group)


def count() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The number of this one, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this one writes and tells."""
    return rank() == 0


def wait() -> None:
    """Go on when all are here."""
    if count() > 1:
        distributed.barrier()


def of_first(value: Value) -> Value:
    """What the first process has."""
    if count() == 1:
        return value
    held = [value]
    distributed.broadcast_object_list(held, src=0)
    return held[0]


def of_all(value: Value) -> list[Value]:
    """What each process has, in their order."""
    if count() == 1:
        return [value]
    found: list[Value] = [value] * count()
    distributed.all_gather_object(found, value)
    return found


def summed(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes; no gradient passes."""
    if count() > 1:
        values = values.detach().clone()
        distributed.all_reduce(values)
    return values


def greatest(values: Sequence[int]) -> list[int]:
    """The greatest of each value in any process."""
    if count() == 1:
        return list(values)
    found = torch.tensor(values, device="cuda" if torch.cuda.is_available() else "cpu")
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return found.tolist()


@contextmanager
def as_one() -> Iterator[None]:
    """What one process finds wrong inside ends all of them, with the same error."""
    own: SentiMoEError | None = None
    try:
        yield
    except SentiMoEError as error:
        own = error
    found = [own, *of_all(own)]
    if wrong := [each for each in found if each is not None]:
        raise wrong[0]


@contextmanager
def lost_told() -> Iterator[None]:
    """Raises LostProcessError for the many errors by which torch tells that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, distributed.DistError) or LOST.search(str(error))
        if count() == 1 or not lost:
            raise
        raise LostProcessError(
            "stopped, because another process of this run ended or did not answer in time "
            f"({one_line(error)}); what was saved before is there"
        ) from error
