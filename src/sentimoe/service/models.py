"""The models of a service: what each answers with, and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..classifier import SentimentClassifier
from ..errors import ConfigError
from ..inference import Engine, StagedClassifier
from ..model_folder import THRESHOLD, find_folder
from ..upcycle import moe_layers
from .batcher import Batcher, TextEngine
from .refusals import Kind, Refusal

TOKENS_PER_FORWARD = 2048  # small ones waste less on padding, and are as fast per token


@dataclass
class ServedModel:
    """A model under its name. classes: the C labels, as `predict` writes them. threshold: a less sure text gets no
    label in our own dialect. classifier: None for an engine that is not one of ours, such as that of a test."""

    name: str
    engine: TextEngine
    classes: Sequence[str | int]
    threshold: float | None = None
    classifier: SentimentClassifier | None = None

    @property
    def labels(self) -> list[str]:
        """The classes as strings, which the dialects of others have."""
        return list(map(str, self.classes))

    @property
    def is_shown(self) -> bool:
        """Whether the network that answers can be looked into: exports, compressed ones and OpenVINO's cannot."""
        return self.classifier is not None and isinstance(getattr(self.engine, "model", None), nn.Module)

    @property
    def has_experts(self) -> bool:
        """Whether tokens are sent to experts."""
        model = None if self.classifier is None else self.classifier.model
        return model is not None and bool(moe_layers(model))

    def about(self) -> dict[str, Any]:
        """What `/v1/models` says."""
        network = getattr(self.engine, "model", None)
        kind = "compressed" if isinstance(network, StagedClassifier) else "experts" if self.has_experts else "dense"
        return {
            "labels": list(self.classes),
            "kind": kind,
            "max_length": getattr(self.engine, "max_length", None),
            "threshold": self.threshold,
            "layers": network.layers.tolist() if isinstance(network, StagedClassifier) else None,
        }


@dataclass
class RunningModel:
    """A served model and what batches its texts."""

    served: ServedModel
    batcher: Batcher


class RunningModels:
    """The models of a running service by name; the first one answers where none is named."""

    def __init__(self, running: Mapping[str, RunningModel]):
        self.by_name = dict(running)

    @property
    def first(self) -> RunningModel:
        """The one that was named first."""
        return next(iter(self.by_name.values()))

    def named(self, name: str | None) -> RunningModel:
        """The model of this name, or the first one. Raises Refusal."""
        if name is None:
            return self.first
        if name not in self.by_name:
            raise Refusal(Kind.UNKNOWN, f"there is no model of that name; there are {', '.join(self.by_name)}")
        return self.by_name[name]


def load_served(
    name: str, model: str | Path, *, precision: str = "auto", max_disagreement: float | None = None, **options: Any
) -> ServedModel:
    """Load a folder, a ready model or a hub id. options: of `SentimentClassifier.from_pretrained`.

    Raises ConfigError and ModelFolderError, as `from_pretrained` does.
    """
    folder = find_folder(model)
    classifier = SentimentClassifier.from_pretrained(
        folder,
        precision=precision,
        max_disagreement=max_disagreement,
        tokens_per_batch=TOKENS_PER_FORWARD,
        **options,
    )
    engine = classifier.engine
    if not isinstance(engine, Engine):
        raise ConfigError(f"{model} is a language model that is asked; serve a trained classifier")
    if classifier.domains:
        raise ConfigError(
            f"{model} has added domains, with which the service cannot answer; use sentimoe predict, or serve a copy "
            "without them"
        )
    return ServedModel(name, engine, classifier.classes_.tolist(), _threshold_of(folder), classifier)


def _threshold_of(folder: Path) -> float | None:
    if not (folder / THRESHOLD).exists():
        return None
    from ..evaluation import Threshold  # brings scipy and scikit-learn

    stored = Threshold.load(folder)
    return None if stored is None else stored.value
