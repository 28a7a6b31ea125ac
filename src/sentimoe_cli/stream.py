"""Run the engine with a progress bar on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress


def probabilities_with_bar(engine: Any, texts: Sequence[Any]) -> np.ndarray:
    """Probabilities `[B, C]` of the texts, in order."""
    chunks = []
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("predicting", total=len(texts))
        for chunk in engine.stream(texts):
            chunks.append(chunk)
            progress.advance(task, len(chunk))
    return np.concatenate(chunks) if chunks else np.empty((0, engine.num_labels), dtype=np.float32)
