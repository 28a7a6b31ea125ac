"""Compressed folders: networks, exit heads, thresholds and the certificate that says what they are worth.

A folder holds `segment-1.xml` and `.bin`, and so on, `exit_heads.safetensors`, the tokenizer, and
`sentimoe_compressed.json`, which says what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from ..data import SeenTexts
from ..errors import ConfigError, ModelFolderError
from ..machine import hardware, versions
from ..manifest import sha256
from ..model_card import write_card
from ..model_folder import COMPRESSED, check_files, check_hashes, read_object, saved_whole
from ..records import write_json
from .exits import ExitHead, StagedClassifier
from .openvino import import_openvino
from .precision import compute_dtype
from .segment_networks import network_of, save_network

FORMAT = "sentimoe-compressed-1"
TOLD = ("layers", "padding", "labels", "label_type", "ordinal", "max_length")  # what `StagedClassifier` is told
HEADS = "exit_heads.safetensors"


def save_compressed(
    folder: Path,
    networks: Sequence[Any],
    classifier: StagedClassifier,
    tokenizer: PreTrainedTokenizerBase,
    about: dict[str, Any],
    seen: SeenTexts | None,
    card: Mapping[str, Any],
) -> None:
    """Write the folder.

    about: JSON-able, with `certificates`, `default_tolerance` and what else is to be known. seen: the texts that the
    model was trained on. card: what `write_card` is told.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; choose another folder")
    with saved_whole(folder) as aside:
        for number, network in enumerate(networks, start=1):
            save_network(network, aside / f"segment-{number}.xml")
        heads = [
            (f"{index}.{name}", value)
            for index, head in enumerate(classifier.heads)
            for name, value in head.state_dict().items()
        ]
        save_file({name: value.contiguous() for name, value in heads}, aside / HEADS)
        tokenizer.save_pretrained(aside)
        if seen is not None:
            seen.save(aside)
        write_card(aside, card)
        files = {path.name: sha256(path) for path in [*sorted(aside.glob("segment-*")), aside / HEADS]}
        write_json(
            aside / COMPRESSED,
            {
                "format": FORMAT,
                "layers": classifier.layers.tolist(),
                "labels": [classifier.config.id2label[index] for index in range(classifier.config.num_labels)],
                "label_type": classifier.config.label_type,
                "ordinal": classifier.config.ordinal,
                "padding": classifier.padding,
                "max_length": classifier.max_length,
                "files_sha256": files,
                **about,
            },
        )


def load_compressed(
    folder: Path, dtype: torch.dtype, max_disagreement: float | None = None, verify: bool = True
) -> StagedClassifier:
    """Load a folder under the thresholds of one of its certificates.

    max_disagreement: a tolerance that the folder has a certificate of; 0: all layers read every text; None: that which
    the folder was made for. Raises ConfigError for another one, and ModelFolderError for a folder that is damaged.
    """
    check_files(folder)
    if verify:
        check_hashes(folder)
    about = read_object(folder / COMPRESSED)
    if about.get("format") != FORMAT:
        raise ModelFolderError(f"{folder} has the format {about.get('format')!r}; this version reads {FORMAT!r}")
    try:
        thresholds = _thresholds(folder, about, max_disagreement)
        for name, known in about["files_sha256"].items():
            if not (folder / name).is_file() or sha256(folder / name) != known:
                raise ModelFolderError(f"{name} in {folder} is missing, or not the one that was saved; copy it again")
        heads = read_heads(folder)
        if find_spec("openvino") is None:
            raise ConfigError(f"{folder} is a compressed model, which needs OpenVINO: pip install 'sentimoe[compress]'")
        core = import_openvino().Core()
        networks = [
            network_of(core.read_model(folder / f"segment-{number}.xml"), dtype) for number in range(1, len(heads) + 1)
        ]
        told = {name: about[name] for name in TOLD}
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelFolderError(f"{folder} cannot be loaded ({type(error).__name__}: {error}); copy it again") from error
    return StagedClassifier(networks, heads, thresholds, **told)


def is_compressed(folder: Path) -> bool:
    """Whether a folder was written by `save_compressed`."""
    return (folder / COMPRESSED).exists()


def made_elsewhere(about: dict[str, Any], precision: str = "auto") -> list[str]:
    """Why the certificates of a folder may not hold on this machine, a clause each; none where nothing is other.

    about: what `sentimoe_compressed.json` says. precision: in which the folder is run here.
    """
    here = hardware() | {"openvino": versions("openvino")["openvino"]}
    made_on = about["hardware"] | {name: each for name, each in about["versions"].items() if name == "openvino"}
    decisive = [name for name in ("processor", "model", "bfloat16", "int8", "openvino") if name in made_on]
    found = [f"{name} {made_on[name]!r}, here {here[name]!r}" for name in decisive if here[name] != made_on[name]]
    reasons = [f"was made on another machine ({', '.join(found)})"] if found else []
    dtype = str(compute_dtype(precision, torch.device("cpu"))).removeprefix("torch.")
    if dtype != (made := about["original"]["precision"]):
        reasons.append(f"was made in {made}, and this runs in {dtype}")
    return reasons


def certificate_of(about: dict[str, Any], max_disagreement: float | None = None) -> dict[str, Any]:
    """The certificate of a tolerance, or the default one. Raises ConfigError where there is none."""
    wanted = about["default_tolerance"] if max_disagreement is None else max_disagreement
    known = {each["tolerance"]: each for each in about["certificates"]}
    if wanted not in known:
        raise ConfigError(
            f"no certificate for max_disagreement={wanted:g}; there is one for "
            f"{', '.join(f'{each:g}' for each in known)}, and 0 lets all layers read every text"
        )
    return known[wanted]


def _thresholds(folder: Path, about: dict[str, Any], max_disagreement: float | None) -> list[float]:
    if max_disagreement == 0:
        return [2.0] * (len(about["layers"]) - 1)  # above every probability
    return certificate_of(about, max_disagreement)["thresholds"]


def read_heads(folder: Path) -> list[ExitHead]:
    """The head after each segment of a folder."""
    weights = load_file(folder / HEADS)
    return [_head(weights, index) for index in range(len({name.partition(".")[0] for name in weights}))]


def _head(weights: dict[str, torch.Tensor], index: int) -> ExitHead:
    own = {name.removeprefix(f"{index}."): value for name, value in weights.items() if name.startswith(f"{index}.")}
    queries, hidden_size = own["queries.weight"].shape
    head = ExitHead(hidden_size, queries, own["inner.weight"].shape[0], own["outer.weight"].shape[0])
    head.load_state_dict(own)
    return head
