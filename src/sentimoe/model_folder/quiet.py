"""Without what libraries print while models are loaded, saved and traced: we check the same and raise instead."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils.logging import set_tqdm_hook

REPORTS = logging.getLogger("transformers.modeling_utils")


@contextmanager
def quietly() -> Iterator[None]:
    """Inside, transformers shows neither progress bars nor its report of loaded weights; errors stay."""
    before = set_tqdm_hook(_hidden)
    errors_only = _ErrorsOnly()
    REPORTS.addFilter(errors_only)
    try:
        yield
    finally:
        REPORTS.removeFilter(errors_only)
        if before is not _hidden:  # that of another thread, which ends it
            set_tqdm_hook(before)


@contextmanager
def without_deprecations() -> Iterator[None]:
    """Inside, nothing is said of names of transformers that peft and the tracer read, and that have a new one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
        yield


class _ErrorsOnly(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR


def _hidden(bar: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return bar(*args, **options | {"disable": True})
