"""Saved folders of every method: a whole model, or an adapter with the model that it belongs to in `base/`."""

from __future__ import annotations

import copy
from pathlib import Path

from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import ConfigError, WeightsError
from ..model_folder import load_adapter, load_model
from ..records import read_json, write_json

BASE = "base"
ADAPTER, EXPORT = "adapter_config.json", "sentimoe_export.json"


def save_adapted(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a trained model and its tokenizer, and beside an adapter the frozen model that it belongs to.

    Raises ConfigError for a folder that holds an adapter or an export, which would be loaded in place of the model.
    """
    folder, adapter = Path(folder), isinstance(model, PeftModel)
    if found := [name for name in ((EXPORT,) if adapter else (ADAPTER, EXPORT)) if (folder / name).exists()]:
        raise ConfigError(f"{folder} holds another kind of model ({', '.join(found)}); choose another folder")
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(folder)
    if adapter:
        _bare(model).save_pretrained(folder / BASE)
        tokenizer.save_pretrained(folder / BASE)
        # peft names the backbone that training began with, and `pipeline` would put this adapter on it without a word
        told = read_json(folder / ADAPTER) | {"base_model_name_or_path": str((folder / BASE).resolve())}
        write_json(folder / ADAPTER, told)


def load_adapted(folder: str | Path, *, trust_remote_code: bool = False) -> PreTrainedModel | PeftModel:
    """Load what `save_adapted` wrote, in evaluation mode.

    Raises WeightsError where some would be random, ModelFolderError for a folder that is damaged or not trusted.
    """
    folder = Path(folder)
    if not (folder / ADAPTER).is_file():
        return _whole(folder, trust_remote_code)
    return load_adapter(_whole(folder / BASE, trust_remote_code), folder)


def _whole(folder: Path, trust_remote_code: bool) -> PreTrainedModel:
    model, found = load_model(AutoModelForSequenceClassification, folder, trust_remote_code=trust_remote_code)
    if found["missing_keys"]:
        raise WeightsError(
            f"{folder} is not a trained classifier: it lacks {sorted(found['missing_keys'])[:3]}, which would be "
            f"random; train it first: sentimoe train --model {folder}"
        )
    return model


def _bare(model: PeftModel) -> PreTrainedModel:
    """A copy of the model under the adapter."""
    copied = copy.deepcopy(model)
    bare = copied.base_model if copied.peft_config["default"].is_prompt_learning else copied.unload()
    for name, module in list(bare.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            bare.set_submodule(name, module.original_module)
    return bare
