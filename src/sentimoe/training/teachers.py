"""The trained models that a student learns from: one dense model that runs along, or the mean answer of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import ConfigError
from ..inference import Engine
from ..methods import load_adapted
from ..model_folder import load_tokenizer
from ..upcycle import moe_layers


def running_teacher(
    folders: Sequence[str],
    label_names: Sequence[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    how: dict[str, bool],
) -> PreTrainedModel:
    """The one teacher whose hidden states are learnt. Raises ConfigError when the student cannot compare its own."""
    if len(folders) > 1:
        raise ConfigError("hidden states are those of one teacher: set distillation_hidden_weight to 0 for several")
    teacher = load_teacher(folders[0], label_names, how)
    theirs = load_tokenizer(folders[0], trust_remote_code=how["trust_remote_code"])
    if theirs.get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"teacher {folders[0]!r} and student read different vocabularies: set distillation_hidden_weight to 0"
        )
    if teacher.config.get_text_config().hidden_size != model.config.get_text_config().hidden_size:
        raise ConfigError("teacher and student have different hidden sizes: set distillation_hidden_weight to 0")
    return teacher


def load_teacher(folder: str, label_names: Sequence[str], how: dict[str, bool]) -> PreTrainedModel:
    """A dense classifier with these labels. Raises ConfigError."""
    if not (Path(folder) / "config.json").is_file():
        raise ConfigError(f"teacher={folder!r} must be the folder of a trained dense model, without an adapter")
    teacher = load_adapted(folder, **how)
    if isinstance(teacher, PeftModel) or moe_layers(teacher):
        raise ConfigError(f"teacher={folder!r} must be a dense model; this one has experts or an adapter")
    check_labels(teacher, label_names)
    return teacher


def soft_teacher_probs(
    folders: Sequence[str],
    texts: Sequence[str],
    label_names: Sequence[str],
    temperature: float,
    max_length: int,
    precision: str = "auto",
    trust_remote_code: bool = False,
    verify: bool = True,
) -> np.ndarray:
    """Mean over trained models of their answers at temperature `T`, `[B, C]`: each text is asked once.

    The models may have other backbones and vocabularies than the student. Raises ConfigError when one cannot be loaded
    or has other labels, ModelFolderError when its folder is damaged or not trusted.
    """
    total = np.zeros((len(texts), len(label_names)))
    for folder in folders:
        try:
            model = load_adapted(folder, trust_remote_code=trust_remote_code, verify=verify)
            tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
        except ConfigError as error:
            raise ConfigError(f"teacher={folder!r} is not the folder of a trained model: {error}") from error
        check_labels(model, label_names)
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        engine = Engine(model, tokenizer, max_length=max_length, long_texts="truncate", precision=precision)
        softened = engine.predict_proba(texts).astype(np.float64) ** (1 / temperature)
        total += softened / softened.sum(axis=1, keepdims=True)
    return total / len(folders)


def check_labels(teacher: Any, label_names: Sequence[str]) -> None:
    """Raises ConfigError when a teacher answers other labels than the data has, or in another order."""
    found = [teacher.config.id2label[index] for index in range(teacher.config.num_labels)]
    if found != list(label_names):
        raise ConfigError(f"the teacher answers {found}, the data has the labels {list(label_names)}; they must agree")
