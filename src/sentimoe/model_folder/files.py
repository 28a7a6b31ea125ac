"""Which files of a folder decide what its model answers, and how they are read: regular files of that folder alone."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ModelFolderError
from ..manifest import MANIFEST, check_manifest

CONFIG, ADAPTER, EXPORT = "config.json", "adapter_config.json", "sentimoe_export.json"
COMPRESSED = "sentimoe_compressed.json"
WEIGHTS, INDEX, ADAPTER_WEIGHTS = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
OWN_TYPE = "sentimoe"  # `model_type` of sentimoe's own models
BASE = "base"  # the folder of the model that an adapter belongs to
# of tokenizers that have no tokenizer.json, or had none once
VOCABULARIES = (
    *("vocab.txt", "vocab.json", "vocab.bpe", "bpe.codes", "encoder.json", "tekken.json", "tiktoken.model"),
    *("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.model", "sentencepiece.bpe.model"),
)
DOMAINS = "domains"  # a folder for each added domain
THRESHOLD = "threshold.json"  # of one model: from what confidence on it answers
SEEN = "seen_texts.npy"  # of one model: hashes of the texts that it was trained on
# all that transformers, peft or sentimoe would read, had somebody put it there
DECISIVE = (
    *(CONFIG, "generation_config.json", WEIGHTS, INDEX, ADAPTER, ADAPTER_WEIGHTS, TOKENIZER, TOKENIZER_CONFIG),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "merges.txt", *VOCABULARIES),
    *(EXPORT, COMPRESSED, "openvino_model.xml", "openvino_model.bin", MANIFEST, BASE),
)


def is_model_folder(name: str | Path) -> bool:
    """Whether a folder of that name holds a model, an adapter, an export or a compressed model, whole or not."""
    return any(os.path.lexists(Path(name) / each) for each in (CONFIG, ADAPTER, EXPORT, COMPRESSED, MANIFEST))


def is_own(folder: Path) -> bool:
    """Whether sentimoe saved a folder, so that nothing may be missing from it and nothing too much."""
    if any((folder / name).exists() for name in (MANIFEST, EXPORT, COMPRESSED)):
        return True
    return (folder / CONFIG).exists() and read_object(folder / CONFIG).get("model_type") == OWN_TYPE


def check_files(folder: Path) -> None:
    """Raises ModelFolderError where a file that will be read is none: a folder, a pipe, a link that leaves the folder.

    Such a file would be passed over in silence, never end, or belong to somebody else's model.
    """
    for name in DECISIVE:
        if os.path.lexists(folder / name):
            check_file(folder, name, stat.S_ISDIR if name == BASE else stat.S_ISREG)
    for path in folder.glob("*/*.jinja"):
        check_file(folder, str(path.relative_to(folder)))


def check_file(folder: Path, name: str, is_kind: Callable[[int], bool] = stat.S_ISREG) -> None:
    """Raises ModelFolderError unless this is a regular file (or what `is_kind` says) that lies in the folder."""
    home, place = (Path(os.path.realpath(each)) for each in (folder, folder / name))
    homes = [home]
    if home.parent.name == "snapshots":  # of the Hugging Face cache, whose files are links to its blobs
        homes.append(home.parent.parent / "blobs")
    if not any(place.is_relative_to(each) for each in homes):
        raise ModelFolderError(f"{name} of {folder} leads out of the folder, to {place}; put the file itself there")
    if not place.exists():
        raise ModelFolderError(f"{folder} lacks {name}; copy it again from where it was made")
    if not is_kind(place.stat().st_mode):
        raise ModelFolderError(f"{folder / name} is not a regular file; copy it again from where it was made")
    if not os.access(place, os.R_OK):
        raise ModelFolderError(f"{folder / name} cannot be read: its permissions forbid it")


def check_hashes(folder: Path) -> None:
    """Raises ModelFolderError where files are not those that the manifest lists; a folder without a manifest passes."""
    listed = check_manifest(folder)
    if listed is None:
        return
    known = {MANIFEST, *listed, *(name.split("/")[0] for name in listed)}
    for name in DECISIVE:
        if name not in known and (folder / name).exists():
            raise ModelFolderError(
                f"{folder} holds {name}, which is not of its model: {MANIFEST} does not list it. Remove it, or load "
                "the folder without the check (verify=False, --no-verify)"
            )


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelFolderError for anything else."""
    if not os.path.lexists(path):
        raise ModelFolderError(f"{path.parent} lacks {path.name}; copy it again from where it was made")
    try:
        if not path.is_file():
            raise ValueError("it is no regular file")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(
            f"{path} cannot be read ({type(error).__name__}: {error}); copy it again from where it was made"
        ) from error
    if not isinstance(found, dict):
        raise ModelFolderError(f"{path} holds a {type(found).__name__}, not a JSON object with names and values")
    return found
