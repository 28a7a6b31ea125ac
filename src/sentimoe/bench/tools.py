"""The other tools of `sentimoe bench --peers`, and the table of all that are compared.

Each gets the trained dense model, or trains on the same texts, and is used as its own documentation says, at the best
of four batch sizes, in the precision of our engine where it can.
"""

from __future__ import annotations

import pickle
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, TextClassificationPipeline

from ..data import Split
from ..errors import ConfigError
from ..evaluation import fit_tfidf
from ..inference import Engine, OpenVINOClassifier
from ..model_folder import COMPRESSED, load_model, load_tokenizer, read_object
from .int8 import calibration_of, network_megabytes, openvino_int8_model
from .lexicon import vader_probabilities
from .onnx import OnnxClassifier
from .peers import Built, Peer, Task, engine_dtype, weights
from .speed import load

BATCH_SIZES = (8, 32, 128, 512)
STRENGTHS = (0.3, 1.0, 3.0, 10.0)
SETFIT_TEXTS, SETFIT_STEPS = 16, 100  # per class; its few-shot setting


def engine_peer(name: str, which: str, backend: str, packages: tuple[str, ...] = ()) -> Peer:
    """Our engine on one of the two models."""

    def build(task: Task) -> Built:
        folder = task.dense if which == "dense" else task.experts
        assert folder is not None
        return Built(load(folder, backend).predict_proba, megabytes=weights(folder))

    return Peer(name, "", build, packages, ours=True, experts=which == "experts")


def compressed_peer(folder: Path) -> Peer:
    """A folder of `sentimoe compress` under the tolerance that it was made for."""

    def build(task: Task) -> Built:
        engine = load(folder, "torch")
        if tuple(engine.label_names) != task.label_names:
            raise ConfigError(
                f"{folder} answers {', '.join(engine.label_names)}, the dense model {', '.join(task.label_names)}"
            )
        seconds = 60 * read_object(folder / COMPRESSED).get("minutes", 0)
        return Built(engine.predict_proba, megabytes=weights(folder), seconds=seconds)

    return Peer(f"sentimoe, {folder.name}", _precision(folder), build, ("openvino",), ours=True)


def _precision(folder: Path) -> str:
    return "int8" if read_object(folder / COMPRESSED)["lever"]["int8"] else ""


def transformers_pipeline(task: Task) -> Built:
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

    return _at_best_size(answer, task.trial, weights(task.dense))


def sentence_transformers(task: Task) -> Built:
    """Embeddings of the backbone, not fine-tuned, and a logistic regression whose C is chosen on validation."""
    from sentence_transformers import SentenceTransformer

    options: dict[str, Any] = {"model_kwargs": {"dtype": engine_dtype()}, "trust_remote_code": False}
    model = SentenceTransformer(task.backbone, device="cpu", **options)

    def embed(texts: Sequence[str], size: int) -> np.ndarray:
        return model.encode(list(texts), batch_size=size, show_progress_bar=False)

    head = best_regression(task, lambda texts: embed(texts, 128))
    size_of = weights(Path(task.backbone))
    return _at_best_size(lambda texts, size: head.predict_proba(embed(texts, size)), task.trial, size_of)


def best_regression(task: Task, embed: Callable[[Sequence[str]], np.ndarray]) -> LogisticRegression:
    """On embeddings of the training texts; its C is chosen by weighted F1 on validation."""
    train, validation = task.train, task.dataset.splits["validation"]
    inputs, held = embed(train.texts), embed(validation.texts)
    heads = [LogisticRegression(C=strength, max_iter=2000).fit(inputs, train.labels) for strength in STRENGTHS]
    scores = [f1_score(validation.labels, head.predict(held), average="weighted") for head in heads]
    return heads[int(np.argmax(scores))]


def setfit(task: Task) -> Built:
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

    built = _at_best_size(answer, task.trial, weights(Path(task.backbone)))
    return replace(built, note=f"{built.note}, {SETFIT_TEXTS} texts a class")


def onnx_runtime(which: str, int8: bool = False) -> Callable[[Task], Built]:
    """ONNX Runtime under our batching, on the dense model or the one with experts; int8: after its quantisation."""

    def build(task: Task) -> Built:
        folder = task.dense if which == "dense" else task.experts
        assert folder is not None
        engine = load(folder, "torch", precision="float32")
        engine.model = OnnxClassifier(engine.model, calibration_of(task, engine) if int8 else None)
        return Built(engine.predict_proba, "our batching", engine.model.megabytes)

    return build


def openvino_int8(task: Task) -> Built:
    """OpenVINO after NNCF's quantisation, under our batching."""
    engine = load(task.dense, "torch", precision="float32")
    network = openvino_int8_model(engine.model, engine.max_length, calibration_of(task, engine))
    engine.model = OpenVINOClassifier(network, engine_dtype())
    return Built(engine.predict_proba, "our batching", network_megabytes(network))


def torch_compile(task: Task) -> Built:
    """`torch.compile` with frozen weights, under our batching."""
    engine: Engine = load(task.dense, "torch")
    engine.model = _Compiled(engine.model)
    engine.predict_proba(task.trial)
    return Built(engine.predict_proba, "our batching", weights(task.dense))


class _Compiled:
    def __init__(self, model: Any):
        self.device = model.device
        self._call = torch.compile(model, dynamic=True, options={"freezing": True})

    def __call__(self, **inputs: torch.Tensor) -> Any:
        return self._call(**inputs)


def tfidf(task: Task) -> Built:
    """Words and word pairs counted by scikit-learn."""
    pipeline = fit_tfidf(task.train, task.dataset.splits["validation"])
    return Built(lambda texts: pipeline.predict_proba(list(texts)), megabytes=len(pickle.dumps(pipeline)) / 1e6)


def vader(task: Task) -> Built:
    """A lexicon."""
    return Built(lambda texts: vader_probabilities(Split(list(texts), [0] * len(texts)), task.label_names))


PEERS = (
    engine_peer("sentimoe, experts, OpenVINO", "experts", "openvino", ("openvino",)),
    engine_peer("sentimoe, experts, torch", "experts", "torch"),
    engine_peer("sentimoe, dense, OpenVINO", "dense", "openvino", ("openvino",)),
    engine_peer("sentimoe, dense, torch", "dense", "torch"),
    Peer("OpenVINO int8 (NNCF)", "int8", openvino_int8, ("openvino", "nncf")),
    Peer("transformers pipeline", "", transformers_pipeline),
    Peer("torch.compile", "", torch_compile),
    Peer("ONNX Runtime", "float32", onnx_runtime("dense"), ("onnxruntime", "onnxscript")),
    Peer("ONNX Runtime int8", "int8", onnx_runtime("dense", int8=True), ("onnxruntime", "onnxscript", "onnx")),
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


def _at_best_size(
    answer: Callable[[Sequence[str], int], np.ndarray], trial: Sequence[str], size_on_disk: float
) -> Built:
    """The batch size at which the trial texts take the least time; each runs twice, the second counts."""
    seconds = {}
    for size in BATCH_SIZES:
        for _ in range(2):
            started = time.perf_counter()
            answer(trial, size)
            seconds[size] = time.perf_counter() - started
    best = min(seconds, key=lambda size: seconds[size])
    return Built(lambda texts: answer(texts, best), f"batches of {best}", size_on_disk)


def _per_class(split: Split, count: int) -> Split:
    """`count` texts of every class, at random."""
    classes = [
        Split([text for text, own in zip(split.texts, split.labels, strict=True) if own == label], [label] * size)
        for label, size in sorted(Counter(split.labels).items())
    ]
    few = [each.sample(count) for each in classes]
    return Split([text for each in few for text in each.texts], [label for each in few for label in each.labels])
