"""What a compressed model stands beside: everything a user could do instead, with or without training.

Students of three and four layers learn the dense model's answers on the texts that `compress` was given; model2vec
makes static embeddings of the backbone. The tools of `sentimoe bench --peers` and the compressed folder join them, on
test texts. The record is one of `bench --peers`: results/bench/peers__compressed-CASE-sN.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from sentimoe import SentimentClassifier
from sentimoe.bench.int8 import calibration_of, network_megabytes, openvino_int8_model
from sentimoe.bench.peers import Built, Peer, Task, compare_peers, engine_dtype, weights
from sentimoe.bench.speed import BenchTexts, load
from sentimoe.bench.tools import best_regression, compressed_peer, named
from sentimoe.data import SentimentDataset, load_dataset
from sentimoe.inference import OpenVINOClassifier
from sentimoe.methods import save_adapted
from sentimoe.model_folder import load_model, load_tokenizer
from sentimoe.records import read_json, write_json
from sentimoe.training import TrainConfig, train
from sentimoe.upcycle import transformer_layers

from .compression import CASES, Case, texts_of

LAYERS, EPOCHS, ROUNDS, STATIC_SIZE = (3, 4), 3, 9, 256
TOOLS = ("dense, OpenVINO", "dense, torch", "OpenVINO int8", "ONNX Runtime int8", "transformers pipeline", "TF-IDF")


def compare(
    name: str, seed: int, *, data_root: Path, work: Path, results: Path, progress: Callable[[str], None]
) -> None:
    """Train the students that are missing and measure everything in turns; a record that is there stays."""
    path = results / f"peers__compressed-{name}-s{seed}.json"
    if path.exists():
        return
    case, dense, fast = CASES[name], work / f"{name}-s{seed}", work / f"{name}-s{seed}-fast"
    source = data_root / case.data
    dataset = load_dataset(str(source) if source.is_dir() else case.data)
    given, _ = texts_of(case, dataset.splits["train"], dataset.label_names, source, seed)
    data = write_texts(dense, given, dataset, progress)
    peers = [*named(TOOLS), Peer("model2vec + LR", "float32", model2vec, ("model2vec",)), compressed_peer(fast)]
    for layers in LAYERS:
        student = partial(student_of, dense, layers, data, case, seed, progress)
        title = f"student of {layers} layers"
        peers += [
            Peer(title, "", partial(in_bfloat16, student)),
            Peer(f"{title}, int8", "int8", partial(in_int8, student)),
        ]
    test = BenchTexts.of(f"{case.data}, test", dataset.splits["test"], dataset.label_names)
    results.mkdir(parents=True, exist_ok=True)
    write_json(path, compare_peers(dense, None, test, progress, ROUNDS, peers))


def write_texts(
    dense: Path, texts: Sequence[str], dataset: SentimentDataset, progress: Callable[[str], None], kind: str = "texts"
) -> Path:
    """A data set of texts that are labelled by the dense model, and the true validation split. kind: of its name."""
    folder = dense.with_name(f"{dense.name}-{kind}")
    if folder.exists():
        return folder
    progress("the dense model answers the texts that its students learn from")
    labels = SentimentClassifier.from_pretrained(dense, precision="float32").predict(texts)
    held = dataset.splits["validation"]
    known = [dataset.label_names[label] for label in held.labels]
    aside = folder.with_name(f"{folder.name}-aside")
    aside.mkdir(exist_ok=True)
    pd.DataFrame({"text": texts, "label": labels}).to_parquet(aside / "train.parquet")
    pd.DataFrame({"text": held.texts, "label": known}).to_parquet(aside / "validation.parquet")
    return aside.replace(folder)


def student_of(
    dense: Path, layers: int, data: Path, case: Case, seed: int, progress: Callable[[str], None]
) -> tuple[Path, float]:
    """The run folder of a student, and the seconds that its training took."""
    start, run = (dense.with_name(f"{dense.name}-{layers}-layers{end}") for end in ("-start", ""))
    if not start.exists():
        model, _ = load_model(AutoModelForSequenceClassification, dense)
        save_adapted(without_top_layers(model, layers), load_tokenizer(dense), start)
    if not (run / "run.json").is_file():
        progress(f"training a student of {layers} layers")
        told = {"data": str(data), "eval_limit": 1500, "max_length": case.max_length}
        taught = {"teacher": [str(dense)], "distillation_weight": 1.0}
        student = {"model": str(start), "head": "native", "method": "full", "epochs": EPOCHS, "seed": seed}
        train(TrainConfig.from_dict(told | taught | student), run, resume=True)
    return run, read_json(run / "run.json")["seconds"]["all"]


def without_top_layers(model: PreTrainedModel, layers: int) -> PreTrainedModel:
    """The model with its first layers alone, under the same head (Sajjad et al. 2020)."""
    text = model.config.get_text_config()
    del transformer_layers(model, text.num_hidden_layers)[layers:]
    text.num_hidden_layers = layers
    return model


def in_bfloat16(student: Callable[[], tuple[Path, float]], task: Task) -> Built:
    """On OpenVINO, in the precision of our engine."""
    folder, seconds = student()
    return Built(load(folder, "openvino").predict_proba, "OpenVINO", weights(folder), seconds)


def in_int8(student: Callable[[], tuple[Path, float]], task: Task) -> Built:
    """On OpenVINO, quantised after training."""
    folder, seconds = student()
    engine = load(folder, "torch", precision="float32")
    network = openvino_int8_model(engine.model, engine.max_length, calibration_of(task, engine))
    engine.model = OpenVINOClassifier(network, engine_dtype())
    return Built(engine.predict_proba, "OpenVINO", network_megabytes(network), seconds)


def model2vec(task: Task) -> Built:
    """Static embeddings distilled from the backbone (Tulkens and van Dongen 2024), and a logistic regression."""
    from model2vec.distill import distill_from_model

    model, _ = load_model(AutoModel, task.backbone)
    static = distill_from_model(
        model=model, tokenizer=load_tokenizer(task.backbone), vocabulary=None, device="cpu", pca_dims=STATIC_SIZE
    )

    def embed(texts: Sequence[str]) -> np.ndarray:
        return static.encode(list(texts))

    head = best_regression(task, embed)
    return Built(lambda texts: head.predict_proba(embed(texts)), megabytes=static.embedding.nbytes / 1e6)
