"""`sentimoe bench --peers`: other tools on the same texts, their quality and their speed beside ours.

A peer that is not installed, fails, or does not know the labels, has a row that says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from ..data import SentimentDataset, Split
from ..errors import ConfigError
from ..evaluation import interleaved, predicted_labels, ratio, throughput
from ..inference import compute_dtype
from ..training import TrainConfig, dataset_of, training_texts
from ..upcycle import backbone_path
from .speed import BenchTexts, Progress, describe, load, record

Answer = Callable[[Sequence[str]], np.ndarray]
TRIAL_TEXTS = 512


@dataclass(frozen=True)
class Task:
    """What a peer may use: folders of the dense model and of the one with experts, labels, texts to try sizes on."""

    dense: Path
    experts: Path | None
    label_names: tuple[str, ...]
    trial: list[str]

    @property
    def config(self) -> TrainConfig:
        """How the dense model was trained."""
        return TrainConfig.from_dict(yaml.safe_load((self.dense / "config.yaml").read_text(encoding="utf-8")))

    @property
    def backbone(self) -> str:
        """Folder or hub id of the model that the dense one was fine-tuned from."""
        return backbone_path(self.config.model)

    @cached_property
    def dataset(self) -> SentimentDataset:
        """The data that the dense model was trained on, with its labels. Raises DataError where they are gone."""
        return dataset_of(self.config).with_labels_of(self.label_names)

    @property
    def train(self) -> Split:
        """The texts that the dense model was trained on."""
        return training_texts(self.dataset.splits["train"], self.config)


@dataclass(frozen=True)
class Built:
    """A peer that is ready to answer. note: how it is used. megabytes: of its weights on disk, where it has any.

    seconds: that it took to train, where that was done before.
    """

    answer: Answer
    note: str = ""
    megabytes: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Peer:
    """A way to answer texts. build: from the task to what answers, ready to go.

    precision: "" for that of our engine. packages: what it imports. experts: it runs the model with experts. labels:
    the only ones that it knows.
    """

    name: str
    precision: str
    build: Callable[[Task], Built]
    packages: tuple[str, ...] = ()
    ours: bool = False
    experts: bool = False
    labels: tuple[str, ...] | None = None


def engine_dtype() -> torch.dtype:
    """What our engine computes in on this processor."""
    return compute_dtype("auto", torch.device("cpu"))


def compare_peers(
    dense: Path,
    experts: Path | None,
    texts: BenchTexts,
    progress: Progress,
    rounds: int,
    peers: Sequence[Peer],
) -> dict[str, Any]:
    """Every peer in turns on the same texts: quality, texts/s, and how many times as fast as each of the others.

    Beside it: how many answers are those of the dense model in float32, megabytes, and the seconds that it takes to
    make ready (to load, convert, or train).

    Raises ConfigError where a GPU is visible: some would use it and others could not.
    """
    if torch.cuda.is_available():
        raise ConfigError("tools are compared on the processor; hide the GPU: CUDA_VISIBLE_DEVICES= sentimoe bench ...")
    task = Task(dense, experts, tuple(texts.label_names), texts.sample(TRIAL_TEXTS))
    ours = str(engine_dtype()).removeprefix("torch.")
    true = predicted_labels(load(dense, "torch", precision="float32").predict_proba(texts.texts))
    answers: dict[str, Answer] = {}
    rows: dict[str, dict[str, Any]] = {}
    for peer in peers:
        rows[peer.name] = row = {
            "name": peer.name,
            "precision": peer.precision or ours,
            "ours": peer.ours,
            "missing": "",
        }
        row["missing"] = _missing(peer, task)
        if not row["missing"]:
            progress(f"preparing {peer.name}")
            try:
                started = time.perf_counter()
                built = peer.build(task)
                seconds_here = time.perf_counter() - started
                row |= {"note": built.note, "megabytes": built.megabytes, "seconds": seconds_here + built.seconds}
                probabilities = built.answer(texts.texts)
                row |= texts.scores(probabilities)
                row["agreement"] = float((predicted_labels(probabilities) == true).mean())
            except Exception as error:  # noqa: BLE001 - one tool that fails here has a row that says so
                row["missing"] = f"failed: {type(error).__name__}: {str(error)[:200]}"
            else:
                answers[peer.name] = built.answer
    seconds = interleaved({name: partial(answer, texts.texts) for name, answer in answers.items()}, rounds, progress)
    for name in answers:
        rows[name] |= throughput(seconds[name], len(texts.texts))
        rows[name]["as_fast_as"] = {other: ratio(seconds[other], seconds[name])["ratio"] for other in answers}
    found = record("peers", texts, rounds) | {"rows": list(rows.values())}
    return found | {"experts": None if experts is None else describe(experts)}


def weights(folder: Path) -> float:
    """Megabytes of the weights in a model folder."""
    return sum(path.stat().st_size for kind in ("*.safetensors", "*.bin") for path in folder.glob(kind)) / 1e6


def _missing(peer: Peer, task: Task) -> str:
    absent = [name for name in peer.packages if find_spec(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (pip install 'sentimoe[bench]')"
    if peer.labels is not None and task.label_names != peer.labels:
        return f"knows only {', '.join(peer.labels)}"
    if peer.experts and task.experts is None:
        return "no model with experts was given"
    return ""
