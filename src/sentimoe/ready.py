"""A ready model: low-rank updates and a head of about a megabyte, added to the weights of an embedded backbone.

The updates are added by hand, `W + B A`, without peft: the result is a plain dense classifier.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sentimoe_ready import FACTS, UPDATES

from .errors import ModelFolderError
from .manifest import check_manifest
from .model_folder import load_tokenizer, read_object
from .upcycle import backbone_path, load_classifier

DOWN, UP = ".lora_A", ".lora_B"  # `[r, in]`, and `[out, r]` with the scale of the updates in it


def is_ready(folder: Path) -> bool:
    """Whether a folder holds a ready model."""
    return (folder / FACTS).is_file()


def load_ready(folder: Path, *, verify: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A ready model, in evaluation mode, and its tokenizer. verify: compare the folder with its manifest.

    Raises ModelFolderError where the folder is damaged, ConfigError where the backbone is not installed.
    """
    if verify:
        check_manifest(folder)
    facts = read_object(folder / FACTS)
    model = load_classifier(facts["backbone"], facts["labels"])
    model.config.label_type = facts["label_type"]
    tokenizer = load_tokenizer(backbone_path(facts["backbone"]))
    tokenizer.model_max_length = facts["max_length"]
    add_updates(model, load_file(folder / UPDATES), folder)
    return model.eval(), tokenizer


@torch.no_grad()
def add_updates(model: PreTrainedModel, stored: dict[str, torch.Tensor], folder: Path) -> None:
    """Add low-rank updates to the weights of a model, in place, and put in the weights that were trained whole.

    Raises ModelFolderError where they are of another model.
    """
    try:
        for name, tensor in stored.items():
            if name.endswith(DOWN):
                module = name.removesuffix(DOWN)
                model.get_parameter(f"{module}.weight").add_(stored[module + UP].float() @ tensor.float())
            elif not name.endswith(UP):
                model.get_parameter(name).copy_(tensor)
    except (AttributeError, KeyError, RuntimeError) as error:
        raise ModelFolderError(f"{folder / UPDATES} does not fit the backbone: {error}") from error
