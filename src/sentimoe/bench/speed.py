"""`sentimoe bench`: a trained model beside its dense model, on the same texts, engine, precision and threads.

Two questions: what did the experts buy (`compare`), and what does each number of experts per token cost and give
(`dial`). The FLOP ratio, the ceiling of a speed-up, is printed beside
every measured one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..classifier import SentimentClassifier
from ..data import Split
from ..errors import ConfigError
from ..evaluation import classification_metrics, interleaved, peak_memory_mib, ratio, throughput
from ..inference import BASE, Engine, domain_names
from ..machine import hardware, versions
from ..model_folder import CONFIG, read_object
from ..ready import is_ready
from ..upcycle import moe_layers
from .flops import gflops_per_text

Progress = Callable[[str], None]
MEMORY_TEXTS = 1000


@dataclass(frozen=True)
class BenchTexts:
    """What is measured on. labels: None where the texts are for speed alone. name: of the data, for the record."""

    name: str
    texts: list[str]
    labels: list[int] | None
    label_names: Sequence[str]

    @classmethod
    def of(cls, name: str, split: Split, label_names: Sequence[str], more: Sequence[str] = ()) -> BenchTexts:
        """A test split; with `more` texts of other data shuffled in, for speed alone."""
        if not more:
            return cls(name, split.texts, split.labels, label_names)
        mixed = [*split.texts, *more]
        order = np.random.default_rng(0).permutation(len(mixed))
        return cls(name, [mixed[index] for index in order], None, label_names)

    def sample(self, count: int) -> list[str]:
        """That many of the texts at random, always the same ones: files may be sorted by label or length."""
        return Split(self.texts, [0] * len(self.texts)).sample(count).texts

    def scores(self, probabilities: np.ndarray) -> dict[str, float]:
        """Weighted and macro F1; nothing where there are no labels."""
        if self.labels is None:
            return {}
        scores = classification_metrics(np.asarray(self.labels), probabilities, self.label_names)
        return {key: scores[key] for key in ("f1_weighted", "f1_macro")}


def labels_of_pair(dense: Path, experts: Path | None) -> list[str]:
    """The labels that both answer. Raises ConfigError unless one is dense, the other has experts, with these labels."""
    answered: list[list[str]] = []
    for folder, wanted in ((dense, "a dense model"), (experts, "a model with experts")):
        if folder is None:
            continue
        found = "a dense model" if describe(folder) is None else "a model with experts"
        if found != wanted:
            raise ConfigError(f"{folder} is {found}; give the dense model first, then the one with experts")
        answered.append(load(folder, "torch").label_names)
    if answered[0] != answered[-1]:
        raise ConfigError(
            f"{experts} answers {answered[-1]}, {dense} answers {answered[0]}; give two models of one task"
        )
    return answered[0]


def load(folder: Path, backend: str, experts_per_token: int | None = None, precision: str = "auto") -> Engine:
    """The engine of a saved classifier, without added domains; long texts are cut, as other tools do.

    Raises ConfigError.
    """
    classifier = SentimentClassifier.from_pretrained(
        folder, backend=backend, num_experts_per_tok=experts_per_token, precision=precision, long_texts="truncate",
        domain=BASE if domain_names(folder) else None,
    )  # fmt: skip
    assert isinstance(classifier.engine, Engine)
    return classifier.engine


def compare(
    model: Path, dense: Path, texts: BenchTexts, backends: Sequence[str], progress: Progress, rounds: int = 9
) -> dict[str, Any]:
    """Both models on every backend, in turns: quality, texts/s, peak memory, and the ratio to the dense model."""
    folders = {"dense": dense, "experts": model}
    engines = {(backend, name): load(folder, backend) for backend in backends for name, folder in folders.items()}
    scores = {key: texts.scores(engine.predict_proba(texts.texts)) for key, engine in engines.items()}
    calls = {key: partial(engine.predict_proba, texts.texts) for key, engine in engines.items()}
    seconds = interleaved({f"{b} {n}": call for (b, n), call in calls.items()}, rounds, progress)
    flops = {name: gflops_per_text(load(folder, "torch"), texts.texts) for name, folder in folders.items()}
    rows, ratios = [], []
    for backend, name in engines:
        timed = throughput(seconds[f"{backend} {name}"], len(texts.texts))
        memory = fresh_peak(folders[name], backend, texts.sample(MEMORY_TEXTS))
        rows.append(
            {"backend": backend, "name": name, **timed, "gflops_per_text": flops[name], "mib": memory}
            | scores[backend, name]
        )
    for backend in backends:
        timed = ratio(seconds[f"{backend} dense"], seconds[f"{backend} experts"])
        ratios.append({"backend": backend, **timed, "flop_ratio": flops["dense"] / flops["experts"]})
    return record("compare", texts, rounds) | {"experts": describe(model), "rows": rows, "ratios": ratios}


def dial(
    model: Path, dense: Path, texts: BenchTexts, backend: str, progress: Progress, rounds: int = 9
) -> dict[str, Any]:
    """F1 and texts/s of one saved model for each number of experts per token, the dense model beside it."""
    count = moe_layers(SentimentClassifier.from_pretrained(model).model)[0].experts.num_experts
    engines = {"dense": load(dense, backend)}
    engines |= {str(k): load(model, backend, k) for k in range(1, count + 1)}
    scores = {name: texts.scores(engine.predict_proba(texts.texts)) for name, engine in engines.items()}
    seconds = interleaved(
        {name: partial(e.predict_proba, texts.texts) for name, e in engines.items()}, rounds, progress
    )
    counted = {"dense": load(dense, "torch")} | {name: load(model, "torch", int(name)) for name in list(engines)[1:]}
    flops = {name: gflops_per_text(each, texts.texts) for name, each in counted.items()}
    rows = [
        {
            "experts_per_token": name,
            **throughput(seconds[name], len(texts.texts)),
            **scores[name],
            "gflops_per_text": flops[name],
        }
        | {"speed_up": ratio(seconds["dense"], seconds[name])}
        for name in engines
    ]
    return record("dial", texts, rounds) | {"experts": describe(model), "backend": backend, "rows": rows}


def describe(folder: Path) -> dict[str, Any] | None:
    """How a saved model divides its FFNs; None for a dense one, such as a ready model."""
    if is_ready(folder):
        return None
    config = read_object(folder / CONFIG)
    moe = config.get("moe")
    keys = ("init", "expert", "num_experts", "num_experts_per_tok", "num_shared_experts")
    return None if moe is None else {key: moe[key] for key in keys}


def record(what: str, texts: BenchTexts, rounds: int) -> dict[str, Any]:
    """What every measurement says of itself."""
    return {
        "what": what,
        "data": texts.name,
        "texts": len(texts.texts),
        "rounds": rounds,
        "hardware": hardware(),
        "versions": versions(),
    }


def fresh_peak(folder: Path, backend: str, texts: Sequence[str]) -> float:
    """Largest resident memory of a fresh process that loads a model and predicts, in MiB; OpenVINO from an export."""
    program = "import sys; from sentimoe.bench.speed import print_peak; print_peak(sys.stdin.read())"
    with tempfile.TemporaryDirectory() as exported:
        if backend == "openvino":
            SentimentClassifier.from_pretrained(folder).export(exported)
            folder = Path(exported)
        request = json.dumps({"folder": str(folder), "texts": list(texts)})
        done = subprocess.run(
            [sys.executable, "-c", program], input=request, check=True, capture_output=True, text=True
        )
    return float(done.stdout.splitlines()[-1])


def print_peak(request: str) -> None:
    """What `fresh_peak` runs in the other process."""
    given = json.loads(request)
    load(Path(given["folder"]), "torch").predict_proba(given["texts"])
    print(peak_memory_mib())
