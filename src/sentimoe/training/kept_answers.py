"""What the teachers of a run answered, kept beside its checkpoints: a run that goes on asks them nothing."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sentimoe_settings import TrainConfig

from ..inference import compute_dtype
from ..manifest import sha256
from ..records import written_aside

ANSWERS = "teacher_answers.npz"  # among the checkpoints, so it goes when the run is finished

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherAnswers:
    """probs: `[B, C]`, for the training texts. key: a hash of all that decides them."""

    key: str
    probs: np.ndarray

    def save(self, folder: Path) -> None:
        """Write them into the folder of the checkpoints, whole or not at all."""
        with written_aside(folder / ANSWERS) as partial, partial.open("wb") as file:
            np.savez(file, key=np.array(self.key), probs=self.probs)


def kept_or_asked(folder: Path | None, key: str, ask: Callable[[], np.ndarray]) -> TeacherAnswers:
    """The answers in the folder of the checkpoints where they have this key, else those that `ask` gives.

    folder: None for a run that does not go on.
    """
    path = None if folder is None else folder / ANSWERS
    if path is None or not path.exists():
        return TeacherAnswers(key, ask())
    try:
        with np.load(path, allow_pickle=False) as stored:
            kept = TeacherAnswers(str(stored["key"]), stored["probs"])
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s cannot be read (%s), so the teachers are asked again", path, error)
        return TeacherAnswers(key, ask())
    if kept.key != key:
        logger.warning("the teachers, or what they read, have changed since the run was begun; they are asked again")
        return TeacherAnswers(key, ask())
    return kept


def answers_key(config: TrainConfig, texts: Sequence[str], label_names: Sequence[str]) -> str:
    """A hash of the texts, the labels, every file of the teachers, and how they are asked."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    told = {
        "texts": hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest(),
        "labels": list(label_names),
        "teachers": [_files(Path(folder)) for folder in config.teachers],
        "temperature": config.distillation_temperature,
        "max_length": config.max_length,
        "precision": str(compute_dtype(config.precision, device)),
    }
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _files(folder: Path) -> dict[str, str]:
    """The hash of every file of a model folder, of which a manifest lists no more than these."""
    return {path.name: sha256(path) for path in sorted(folder.glob("*")) if path.is_file()}
