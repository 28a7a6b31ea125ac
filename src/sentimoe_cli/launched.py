"""A command that a launcher, such as torchrun, started in several processes: the first one speaks for all."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from sentimoe_settings.errors import LostProcessError, SentiMoEError


def several() -> bool:
    """Whether this is one of several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this one speaks."""
    return not several() or os.environ.get("RANK") == "0"


def command() -> str:
    """What the command is called by, to be repeated."""
    if not several():
        return "sentimoe"
    here = os.environ.get("LOCAL_WORLD_SIZE")
    if here != os.environ["WORLD_SIZE"]:
        return "the same launcher and sentimoe"
    return f"torchrun --nproc-per-node {here} -m sentimoe"


@contextmanager
def one_voice() -> Iterator[None]:
    """Warnings and errors inside are told once; each process ends with its exit code.

    That another process is lost, each one tells: the first one may be the one that is lost.
    """
    if is_first():
        yield
        return
    logging.getLogger("sentimoe").setLevel(logging.ERROR)
    try:
        yield
    except LostProcessError:
        raise
    except (SentiMoEError, typer.TyperException) as error:
        raise typer.Exit(error.exit_code) from None
