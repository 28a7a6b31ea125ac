"""Exported folders: a compiled classifier that runs without this package (README).

A folder holds `openvino_model.xml` and `.bin`, the tokenizer, `sentimoe_export.json`, which says what it is, and a
model card.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data import SeenTexts
from ..errors import ConfigError, ModelFolderError
from ..manifest import sha256
from ..model_card import model_facts, write_card
from ..model_folder import EXPORT, TOKENIZER, TOKENIZER_CONFIG, check_files, check_hashes, read_object, saved_whole
from ..records import write_json
from .conversion import Comparison, convert
from .lengths import position_limit, window_length
from .openvino import OpenVINOClassifier, import_openvino
from .precision import has_fast_bfloat16

NETWORK = "openvino_model.xml"
FORMAT = "sentimoe-openvino-1"
SUMMARY = (
    "A text classifier, exported for OpenVINO, which runs it without SentiMoE too. Each text gets one of these labels, "
    "with a probability for every label."
)


def export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    seen: SeenTexts | None = None,
    known: Mapping[str, Any] | None = None,
) -> list[Comparison]:
    """Write the folder; how the network compares with the model in each precision that this processor has.

    seen: the texts that the model was trained on. known: what its card says beside what the model says of itself.

    Raises ConfigError when the folder is not empty, the tokenizer is not a fast one, or OpenVINO is not installed, and
    ConversionError when the network would answer differently.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; choose another folder for the export")
    if not tokenizer.is_fast:
        raise ConfigError(
            f"the {type(tokenizer).__name__} has no tokenizer.json, which programs read without this package; use the "
            "torch backend"
        )
    readable = copy.copy(tokenizer)
    readable.padding_side = "right"  # as it was compared
    readable.model_max_length = window_length(None, tokenizer, position_limit(model))
    dtypes = [torch.float32, torch.bfloat16] if has_fast_bfloat16(torch.device("cpu")) else [torch.float32]
    moe = getattr(model.config, "moe", None)
    with saved_whole(folder) as aside:
        comparisons = convert(model, readable.model_max_length, aside / NETWORK, dtypes)
        readable.save_pretrained(aside)
        about = {
            "format": FORMAT,
            "labels": [model.config.id2label[index] for index in range(model.config.num_labels)],
            "max_length": readable.model_max_length,
            "experts_per_token": None if moe is None else moe["num_experts_per_tok"],
            "compared": [asdict(comparison) for comparison in comparisons],
            "tokenizer_sha256": sha256(aside / TOKENIZER),
            "network_sha256": sha256(aside / NETWORK),
            "openvino": import_openvino().__version__,
        }
        write_json(aside / EXPORT, about)
        if seen is not None:
            seen.save(aside)
        facts = {"model": model_facts(model, readable.model_max_length), "summary": SUMMARY}
        write_card(aside, facts | dict(known or {}))
    return comparisons


def load_exported(folder: Path, dtype: torch.dtype, verify: bool = True) -> OpenVINOClassifier:
    """Load an exported folder. Raises ModelFolderError when network, tokenizer or labels are not those of the export.

    verify: compare the folder with its manifest, where it has one.
    """
    check_files(folder)
    if verify:
        check_hashes(folder)
    about = read_object(folder / EXPORT)
    if about.get("format") != FORMAT:
        raise ModelFolderError(f"{folder} has the format {about.get('format')!r}; this version reads {FORMAT!r}")
    for name, known in ((TOKENIZER, "tokenizer_sha256"), (NETWORK, "network_sha256")):
        if not (folder / name).exists():
            raise ModelFolderError(f"{folder} lacks {name}; copy it again, or export the model again")
        if known in about and sha256(folder / name) != about[known]:
            raise ModelFolderError(f"{name} in {folder} is not the one of the export; copy it again, or export again")
    if (length := read_object(folder / TOKENIZER_CONFIG).get("model_max_length")) != about.get("max_length"):
        raise ModelFolderError(
            f"the tokenizer in {folder} has model_max_length={length!r}, its description says "
            f"{about.get('max_length')!r}; export again"
        )
    try:
        network = import_openvino().Core().read_model(folder / NETWORK)
        classifier = OpenVINOClassifier(network, dtype)
    except (RuntimeError, ValueError) as error:  # what OpenVINO raises for weights that do not fit
        raise ModelFolderError(f"{folder} cannot be loaded ({str(error).strip().splitlines()[-1]})") from error
    if list(classifier.config.id2label.values()) != about.get("labels"):
        raise ModelFolderError(
            f"the model in {folder} answers {list(classifier.config.id2label.values())}, its description says "
            f"{about.get('labels')}; export again"
        )
    return classifier


def is_exported(folder: Path) -> bool:
    """Whether a folder was written by `export`."""
    return (folder / EXPORT).exists()
