"""Weights come from safetensors alone, whole, finite, and in the form that they were saved in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import ModelFolderError, WeightsError
from ..manifest import sha256
from .files import ADAPTER_WEIGHTS, DOMAINS, INDEX, WEIGHTS, check_file, read_object

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}


def check_weights(folder: Path) -> None:
    """Raises ModelFolderError unless every file of weights is whole and lies in the folder itself."""
    for name, expected in _files(folder).items():
        if "/" in name or "\\" in name:
            raise ModelFolderError(f"{INDEX} of {folder} names {name}, which does not lie in that folder")
        check_file(folder, name)
        found = set(read_header(folder / name))
        if expected is not None and expected != found:
            raise ModelFolderError(
                f"{folder / name} does not hold the weights that {INDEX} says, such as {min(expected ^ found)}; copy "
                "the folder again"
            )


def check_adapter_weights(folder: Path) -> None:
    """The same of an adapter."""
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise _lacks(folder, ADAPTER_WEIGHTS)
    read_header(folder / ADAPTER_WEIGHTS)


def read_header(path: Path) -> dict[str, str]:
    """The type of every tensor in a safetensors file, by name. Raises ModelFolderError for a damaged file."""
    try:
        with safe_open(path, "pt") as stored:
            return {name: stored.get_slice(name).get_dtype() for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(
            f"{path} is not a whole safetensors file ({error}); copy it again from where it was made"
        ) from error


def check_finite(model: nn.Module, what: str) -> None:
    """Raises WeightsError, which begins with `what`, where a weight is NaN or infinite."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise WeightsError(f"{what}: {name} holds values that are not finite, and so would every answer")


def same_weights(folder: Path, other: Path) -> bool:
    """Whether two folders hold the same files of weights, byte for byte, apart from those of added domains."""
    first, second = (
        {
            path.relative_to(each): sha256(path)
            for path in each.rglob("*.safetensors")
            if path.relative_to(each).parts[0] != DOMAINS
        }
        for each in (folder, other)
    )
    return first == second


def check_surplus(folder: Path, info: dict[str, Any]) -> None:
    """Raises WeightsError where there are weights that the model does not have. info: of `from_pretrained`."""
    if surplus := sorted(info["unexpected_keys"]):
        raise WeightsError(f"{folder} holds weights that its model does not have: {surplus[:3]}; copy it again")


def check_dtypes(folder: Path, model: nn.Module) -> None:
    """Raises ModelFolderError where a weight is stored in a narrower type than it is used in: it was rounded since."""
    loaded = model.state_dict()
    for file in _files(folder):
        for name, kind in read_header(folder / file).items():
            if name not in loaded:
                continue
            stored, used = DTYPES.get(kind), loaded[name].dtype
            if stored is None or torch.promote_types(stored, used) != stored:
                raise ModelFolderError(
                    f"{name} in {folder / file} is stored as {kind}, and used as {used}: it was rounded after it was "
                    "saved; copy the folder again"
                )


def _files(folder: Path) -> dict[str, set[str] | None]:
    """The names of the files that transformers will read, with the tensors in each where an index tells them."""
    if (folder / WEIGHTS).exists():
        return {WEIGHTS: None}
    if not (folder / INDEX).exists():
        raise _lacks(folder, WEIGHTS)
    places = read_object(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(each, str) for each in places.values()):
        raise ModelFolderError(f"{folder / INDEX} has no weight_map from names of weights to names of files")
    return {file: {name for name, place in places.items() if place == file} for file in sorted(set(places.values()))}


def _lacks(folder: Path, name: str) -> ModelFolderError:
    pickled = [path.name for pattern in PICKLES for path in folder.glob(pattern)]
    if pickled:
        return ModelFolderError(
            f"{folder} has no {name}; {pickled[0]} is not read, because such files can run code: load it where you "
            "trust it and save it again with save_pretrained"
        )
    if folder.parent.name == "snapshots":  # of the hub's cache, into which no pickles are brought
        return ModelFolderError(
            f"the repository on the hub has no {name} ({folder} is its copy); weights in other files, such as "
            "pytorch_model.bin, are not read, because they can run code: load the model where you trust it, and save "
            "it again with save_pretrained"
        )
    return ModelFolderError(f"{folder} lacks {name}, the weights; copy it again from where it was made")
