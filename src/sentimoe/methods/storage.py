"""Saved folders of every method: a whole model, or an adapter with the model that it belongs to in `base/`."""

from __future__ import annotations

import copy
from pathlib import Path

from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from transformers import AutoModelForSequenceClassification, PreTrainedModel

BASE = "base"


def save_adapted(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Write a trained model; an adapter also writes the frozen model under it, without which it is worth nothing."""
    model.save_pretrained(str(folder))
    if isinstance(model, PeftModel):
        _bare(model).save_pretrained(folder / BASE)


def load_adapted(folder: str | Path) -> PreTrainedModel | PeftModel:
    """Load what `save_adapted` wrote, in evaluation mode."""
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        return AutoModelForSequenceClassification.from_pretrained(folder)
    base = AutoModelForSequenceClassification.from_pretrained(folder / BASE)
    return PeftModel.from_pretrained(base, str(folder)).eval()


def _bare(model: PeftModel) -> PreTrainedModel:
    """A copy of the model under the adapter."""
    copied = copy.deepcopy(model)
    bare = copied.base_model if copied.peft_config["default"].is_prompt_learning else copied.unload()
    for name, module in list(bare.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            bare.set_submodule(name, module.original_module)
    return bare
