"""Saved folders of every method: a whole model, or an adapter with the model that it belongs to in `base/`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from ..data import SeenTexts
from ..errors import ConfigError, WeightsError
from ..model_card import CARD, is_somebodys, model_facts, write_card
from ..model_folder import (
    ADAPTER,
    BASE,
    COMPRESSED,
    CONFIG,
    EXPORT,
    INDEX,
    AdapterConfig,
    check_adapter,
    check_answers,
    check_files,
    check_finite,
    check_hashes,
    load_adapter,
    load_model,
    read_header,
    read_object,
    saved_whole,
)
from ..records import write_json

RUN = "run.json"  # training writes it into the folder of a finished run


def save_adapted(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    seen: SeenTexts | None = None,
    known: Mapping[str, Any] | None = None,
) -> None:
    """Write a trained model, its tokenizer, card and manifest; beside an adapter the frozen model that it belongs to.

    seen: the texts that it was trained on, kept as hashes. known: what the card says beside what the model says of
    itself, see `render_card`. A card that somebody wrote stays.

    Takes the place of a model of the same kind. Raises ConfigError for a folder that holds another kind of model or a
    finished run, and WeightsError for weights that are not finite; the folder is then as it was.
    """
    folder, adapter = Path(folder), isinstance(model, PeftModel)
    others = [EXPORT, COMPRESSED, *([] if adapter else [ADAPTER])]
    if adapter and not (folder / ADAPTER).exists():
        others.append(CONFIG)  # of a whole model
    if found := [name for name in others if (folder / name).exists()]:
        raise ConfigError(f"{folder} holds another kind of model ({', '.join(found)}); choose another folder")
    if (folder / RUN).exists():
        raise ConfigError(f"{folder} holds a finished run, whose scores are of its own model; choose another folder")
    check_finite(model, f"the model is not saved to {folder}")
    with saved_whole(folder) as aside:
        model.save_pretrained(str(aside))
        tokenizer.save_pretrained(aside)
        if adapter:
            _bare(model).save_pretrained(aside / BASE)
            tokenizer.save_pretrained(aside / BASE)
            _point_to_base(aside)
        if seen is not None:
            seen.save(aside)
        (aside / CARD).unlink(missing_ok=True)  # peft's, to fill in
        if not is_somebodys(folder / CARD):
            write_card(aside, {"model": model_facts(model, tokenizer.model_max_length)} | dict(known or {}))


def load_adapted(
    folder: str | Path, *, trust_remote_code: bool = False, verify: bool = True
) -> PreTrainedModel | PeftModel:
    """Load what `save_adapted` wrote, in evaluation mode. verify: compare the folder with its manifest.

    Raises WeightsError where some would be random, ModelFolderError for a folder that is damaged or not trusted.
    """
    folder, how = Path(folder), {"trust_remote_code": trust_remote_code, "verify": verify}
    if not (folder / ADAPTER).exists():
        return _whole(folder, how)
    check_files(folder)
    if verify:
        check_hashes(folder)
    check_adapter(folder)
    return load_adapter(_whole(folder / BASE, how), folder)


def _whole(folder: Path, how: dict[str, bool]) -> PreTrainedModel:
    model, found = load_model(AutoModelForSequenceClassification, folder, labelled=True, **how)
    if found["missing_keys"]:
        raise WeightsError(
            f"{folder} is not a trained classifier: it lacks {sorted(found['missing_keys'])[:3]}, which would be "
            f"random; train it first: sentimoe train --model {folder}"
        )
    check_answers(model, folder)
    return model


def _point_to_base(folder: Path) -> None:
    """Let transformers find the base inside the folder of its adapter.

    peft wrote the name of the backbone that training began with, onto which `pipeline` would put this adapter without a
    word. A path in its place would be wrong, or another run's, once the folder is moved; so there is none.
    """
    write_json(folder / ADAPTER, read_object(folder / ADAPTER) | {"base_model_name_or_path": None})
    config = {"model_type": AdapterConfig.model_type, "base_config": read_object(folder / BASE / CONFIG)}
    write_json(folder / CONFIG, config)
    files = sorted((folder / BASE).glob("*.safetensors"))
    places = {name: f"{BASE}/{file.name}" for file in files for name in read_header(file)}
    write_json(folder / INDEX, {"metadata": {}, "weight_map": places})


def _bare(model: PeftModel) -> PreTrainedModel:
    """A copy of the model under the adapter."""
    copied = copy.deepcopy(model)
    bare = copied.base_model if copied.peft_config["default"].is_prompt_learning else copied.unload()
    for name, module in list(bare.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            bare.set_submodule(name, module.original_module)
    return bare
