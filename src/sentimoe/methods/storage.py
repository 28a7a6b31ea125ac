"""Saved folders of every method: a whole model, or an adapter with the dense model that it belongs to in `base/`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from peft import PeftModel
from transformers import AutoModelForSequenceClassification, PreTrainedModel

BASE = "base"


def save_adapted(model: PreTrainedModel | PeftModel, folder: Path, dense: Callable[[], PreTrainedModel]) -> None:
    """Write a trained model. `dense` builds the classifier that was adapted, and is called for adapters only."""
    model.save_pretrained(str(folder))
    if isinstance(model, PeftModel):
        dense().save_pretrained(folder / BASE)


def load_adapted(folder: str | Path) -> PreTrainedModel | PeftModel:
    """Load what `save_adapted` wrote, in evaluation mode."""
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        return AutoModelForSequenceClassification.from_pretrained(folder)
    base = AutoModelForSequenceClassification.from_pretrained(folder / BASE)
    return PeftModel.from_pretrained(base, folder).eval()
