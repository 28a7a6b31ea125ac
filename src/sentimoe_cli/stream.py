"""Run the engine with a progress bar on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

if TYPE_CHECKING:
    from sentimoe.predictions import Predictions


def predictions_with_bar(engine: Any, texts: Sequence[Any]) -> Predictions:
    """Answers to the texts, in order."""
    from sentimoe.predictions import joined

    chunks = []
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("predicting", total=len(texts))
        for chunk in engine.stream(texts):
            chunks.append(chunk)
            progress.advance(task, len(chunk.probabilities))
    return joined(chunks, engine.num_labels)
