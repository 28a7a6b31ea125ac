"""`sentimoe bench --peers`: other tools on the same texts, their quality and their speed beside ours.

Each peer gets the trained dense model, or trains on the same texts, and is used as its own documentation says, at the
best of four batch sizes, in the precision of our engine where it can. A peer that is not installed, fails, or does not
know the labels, has a row that says so.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, TextClassificationPipeline

from ..data import SentimentDataset, Split
from ..errors import ConfigError
from ..evaluation import fit_tfidf, interleaved, ratio, throughput
from ..inference import Engine, compute_dtype
from ..model_folder import load_model, load_tokenizer
from ..training import TrainConfig, dataset_of, training_texts
from ..upcycle import backbone_path
from .lexicon import vader_probabilities
from .onnx import OnnxClassifier
from .speed import BenchTexts, Progress, describe, load, record

Answer = Callable[[Sequence[str]], np.ndarray]
BATCH_SIZES = (8, 32, 128, 512)
TRIAL_TEXTS = 512
SETFIT_TEXTS, SETFIT_STEPS = 16, 100  # per class; its few-shot setting


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
class Peer:
    """A way to answer texts. build: from the task to a function that gives probabilities `[B, C]`, and a note.

    precision: "" for that of our engine. packages: what it imports. experts: it runs the model with experts. labels:
    the only ones that it knows.
    """

    name: str
    precision: str
    build: Callable[[Task], tuple[Answer, str]]
    packages: tuple[str, ...] = ()
    ours: bool = False
    experts: bool = False
    labels: tuple[str, ...] | None = None


def engine_peer(name: str, which: str, backend: str, packages: tuple[str, ...] = ()) -> Peer:
    """Our engine on one of the two models."""

    def build(task: Task) -> tuple[Answer, str]:
        folder = task.dense if which == "dense" else task.experts
        assert folder is not None
        return load(folder, backend).predict_proba, ""

    return Peer(name, "", build, packages, ours=True, experts=which == "experts")


def engine_dtype() -> torch.dtype:
    """What our engine computes in on this processor."""
    return compute_dtype("auto", torch.device("cpu"))


def transformers_pipeline(task: Task) -> tuple[Answer, str]:
    """`transformers.pipeline("text-classification")`."""
    model, _ = load_model(AutoModelForSequenceClassification, task.dense, dtype=engine_dtype())
    pipe = TextClassificationPipeline(model=model, tokenizer=load_tokenizer(task.dense))
    places = model.config.label2id

    def answer(texts: Sequence[str], size: int) -> np.ndarray:
        found = pipe(list(texts), batch_size=size, top_k=None, truncation=True)
        rows = np.zeros((len(texts), len(places)))
        for row, scores in zip(rows, found, strict=True):
            for each in scores:
                row[places[each["label"]]] = each["score"]
        return rows

    return _at_best_size(answer, task.trial)


def sentence_transformers(task: Task) -> tuple[Answer, str]:
    """Embeddings of the backbone, not fine-tuned, and a logistic regression whose C is chosen on validation."""
    from sentence_transformers import SentenceTransformer

    options: dict[str, Any] = {"model_kwargs": {"dtype": engine_dtype()}, "trust_remote_code": False}
    model = SentenceTransformer(task.backbone, device="cpu", **options)

    def embed(texts: Sequence[str], size: int) -> np.ndarray:
        return model.encode(list(texts), batch_size=size, show_progress_bar=False)

    train, validation = task.train, task.dataset.splits["validation"]
    held = embed(validation.texts, 128)
    inputs, best = embed(train.texts, 128), (-1.0, None)
    for strength in (0.3, 1.0, 3.0, 10.0):
        head = LogisticRegression(C=strength, max_iter=2000).fit(inputs, train.labels)
        score = f1_score(validation.labels, head.predict(held), average="weighted")
        best = max(best, (score, head), key=lambda pair: pair[0])
    chosen: Any = best[1]
    return _at_best_size(lambda texts, size: chosen.predict_proba(embed(texts, size)), task.trial)


def setfit(task: Task) -> tuple[Answer, str]:
    """SetFit (Tunstall et al. 2022) on 16 texts of each class."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel, Trainer, TrainingArguments

    # not from_pretrained, which would unpickle a head that it finds beside the backbone
    body = SentenceTransformer(task.backbone, device="cpu", trust_remote_code=False)
    model = SetFitModel(model_body=body, model_head=LogisticRegression())
    few = _per_class(task.train, SETFIT_TEXTS)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, batch_size=16, max_steps=SETFIT_STEPS, show_progress_bar=False, report_to="none"
        )
        Trainer(model, arguments, train_dataset=Dataset.from_dict({"text": few.texts, "label": few.labels})).train()

    def answer(texts: Sequence[str], size: int) -> np.ndarray:
        return np.asarray(model.predict_proba(list(texts), batch_size=size, as_numpy=True))

    done, note = _at_best_size(answer, task.trial)
    return done, f"{note}, {SETFIT_TEXTS} texts a class"


def onnx_runtime(which: str) -> Callable[[Task], tuple[Answer, str]]:
    """ONNX Runtime under our batching, on the dense model or the one with experts."""

    def build(task: Task) -> tuple[Answer, str]:
        folder = task.dense if which == "dense" else task.experts
        assert folder is not None
        engine = load(folder, "torch", precision="float32")
        engine.model = OnnxClassifier(engine.model)
        return engine.predict_proba, "our batching"

    return build


def torch_compile(task: Task) -> tuple[Answer, str]:
    """`torch.compile` with frozen weights, under our batching."""
    engine: Engine = load(task.dense, "torch")
    engine.model = _Compiled(engine.model)
    engine.predict_proba(task.trial)
    return engine.predict_proba, "our batching"


class _Compiled:
    def __init__(self, model: Any):
        self.device = model.device
        self._call = torch.compile(model, dynamic=True, options={"freezing": True})

    def __call__(self, **inputs: torch.Tensor) -> Any:
        return self._call(**inputs)


def tfidf(task: Task) -> tuple[Answer, str]:
    """Words and word pairs counted by scikit-learn."""
    pipeline = fit_tfidf(task.train, task.dataset.splits["validation"])
    return lambda texts: pipeline.predict_proba(list(texts)), ""


def vader(task: Task) -> tuple[Answer, str]:
    """A lexicon."""
    return lambda texts: vader_probabilities(Split(list(texts), [0] * len(texts)), task.label_names), ""


PEERS = (
    engine_peer("sentimoe, experts, OpenVINO", "experts", "openvino", ("openvino",)),
    engine_peer("sentimoe, experts, torch", "experts", "torch"),
    engine_peer("sentimoe, dense, OpenVINO", "dense", "openvino", ("openvino",)),
    engine_peer("sentimoe, dense, torch", "dense", "torch"),
    Peer("transformers pipeline", "", transformers_pipeline),
    Peer("torch.compile", "", torch_compile),
    Peer("ONNX Runtime", "float32", onnx_runtime("dense"), ("onnxruntime", "onnxscript")),
    Peer("ONNX Runtime, experts", "float32", onnx_runtime("experts"), ("onnxruntime", "onnxscript"), experts=True),
    Peer("sentence-transformers + LR", "", sentence_transformers, ("sentence_transformers",)),
    Peer("SetFit", "float32", setfit, ("setfit",)),
    Peer("TF-IDF + LR", "float64", tfidf),
    Peer("VADER", "none", vader, labels=("negative", "neutral", "positive")),
)


def named(parts: Sequence[str]) -> list[Peer]:
    """The peers whose names contain one of these; all for none. Raises ConfigError for one that fits no name."""
    if unknown := [part for part in parts if not any(part in peer.name for peer in PEERS)]:
        raise ConfigError(f"no tool is named {', '.join(unknown)}; there are {'; '.join(peer.name for peer in PEERS)}")
    return [peer for peer in PEERS if not parts or any(part in peer.name for part in parts)]


def compare_peers(
    dense: Path,
    experts: Path | None,
    texts: BenchTexts,
    progress: Progress,
    rounds: int = 9,
    peers: Sequence[Peer] = PEERS,
) -> dict[str, Any]:
    """Every peer in turns on the same texts: quality, texts/s, and how many times as fast as each of the others.

    Raises ConfigError where a GPU is visible: some would use it and others could not.
    """
    if torch.cuda.is_available():
        raise ConfigError("tools are compared on the processor; hide the GPU: CUDA_VISIBLE_DEVICES= sentimoe bench ...")
    task = Task(dense, experts, tuple(texts.label_names), texts.sample(TRIAL_TEXTS))
    ours = str(engine_dtype()).removeprefix("torch.")
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
                answer, row["note"] = peer.build(task)
                row |= texts.scores(answer(texts.texts))
            except Exception as error:  # noqa: BLE001 - one tool that fails here has a row that says so
                row["missing"] = f"failed: {type(error).__name__}: {str(error)[:200]}"
            else:
                answers[peer.name] = answer
    seconds = interleaved({name: partial(answer, texts.texts) for name, answer in answers.items()}, rounds, progress)
    for name in answers:
        rows[name] |= throughput(seconds[name], len(texts.texts))
        rows[name]["as_fast_as"] = {other: ratio(seconds[other], seconds[name])["ratio"] for other in answers}
    found = record("peers", texts, rounds) | {"rows": list(rows.values())}
    return found | {"experts": None if experts is None else describe(experts)}


def _missing(peer: Peer, task: Task) -> str:
    absent = [name for name in peer.packages if find_spec(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (pip install 'sentimoe[bench]')"
    if peer.labels is not None and task.label_names != peer.labels:
        return f"knows only {', '.join(peer.labels)}"
    if peer.experts and task.experts is None:
        return "no model with experts was given"
    return ""


def _at_best_size(answer: Callable[[Sequence[str], int], np.ndarray], trial: Sequence[str]) -> tuple[Answer, str]:
    """The batch size at which the trial texts take the least time; each runs twice, the second counts."""
    seconds = {}
    for size in BATCH_SIZES:
        for _ in range(2):
            started = time.perf_counter()
            answer(trial, size)
            seconds[size] = time.perf_counter() - started
    best = min(seconds, key=lambda size: seconds[size])
    return lambda texts: answer(texts, best), f"batches of {best}"


def _per_class(split: Split, count: int) -> Split:
    """`count` texts of every class, at random."""
    classes = [
        Split([text for text, own in zip(split.texts, split.labels, strict=True) if own == label], [label] * size)
        for label, size in sorted(Counter(split.labels).items())
    ]
    few = [each.sample(count) for each in classes]
    return Split([text for each in few for text in each.texts], [label for each in few for label in each.labels])
