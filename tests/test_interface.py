"""What programs rely on: names, arguments and keys that stay as they were in version 0.1."""

import inspect
import json
from pathlib import Path

from command import invoke

from sentimoe import SentimentClassifier
from sentimoe.data import load_dataset
from sentimoe.evaluation import evaluate_predictions
from sentimoe.inference import Engine

RESULTS = Path(__file__).parents[1] / "results" / "runs"


def test_data():
    dataset = load_dataset("tweets")
    assert dataset.label_names == ("negative", "neutral", "positive")
    assert {"train", "validation", "test"} == set(dataset.splits)
    part = dataset.splits["test"]
    assert isinstance(part.texts[0], str) and dataset.label_names[part.labels[0]]


def test_engine_and_classifier():
    taken = inspect.signature(Engine).parameters
    assert list(taken)[:2] == ["model", "tokenizer"] and {"max_length", "precision", "backend"} <= set(taken)
    for name in ("fit", "predict", "predict_proba", "export", "from_pretrained", "save_pretrained"):
        assert callable(getattr(SentimentClassifier, name))


def test_commands():
    assert "--output" in invoke("explain", "--help").stdout and "--json" in invoke("evaluate", "--help").stdout
    metrics = evaluate_predictions([0, 1], [[0.9, 0.1], [0.2, 0.8]], ["a", "b"])
    assert {"n", "accuracy", "f1_weighted", "f1_macro"} <= set(metrics)


def test_results():
    runs = sorted(RESULTS.glob("*.json"))
    assert runs
    for run in runs:
        assert {"data", "model", "method", "recipe", "seed"} <= set(json.loads(run.read_text())), run
