"""The scripts in `examples/` run, on tiny models, and say what they promise."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from backbone import labelled_texts, write_backbone, write_classifier
from command import invoke
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sentimoe import MoEConfig, SentimentClassifier, load_classifier, upcycle

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Run a script in an empty folder and return what it prints."""
    monkeypatch.chdir(tmp_path)

    def script(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return script


def test_a_file_is_labelled_and_experts_are_shown(run, tmp_path):
    texts, labels = labelled_texts(60)
    pd.DataFrame({"review": texts, "stars": labels}).to_csv("reviews.csv")
    pd.DataFrame({"id": [7, 8, 9], "review": ["a lovely thing", None, "an awful thing"]}).to_csv("new.csv", index=False)
    columns = ("--text", "review", "--label", "stars")
    model = ("--model", write_backbone(tmp_path / "tiny"), "--max-length", "32")
    training = ("--method", "moe-gated", "--epochs", "1")
    run("train_and_label.py", "reviews.csv", "new.csv", "labelled.csv", *columns, *model, *training)
    written = pd.read_csv("labelled.csv")
    assert written.id.tolist() == [7, 8, 9] and written.predicted.isna().tolist() == [False, True, False]
    assert written.score.dropna().between(0.5, 1).all()

    shown = run("who_reads_what.py", "my-classifier", "a lovely thing").splitlines()
    assert [line.split()[0] for line in shown[1:6]] == ["[CLS]", "a", "lovely", "thing", "[SEP]"]
    classifier = SentimentClassifier.from_pretrained("my-classifier")
    (answer,) = classifier("a lovely thing")
    routing = classifier.model(**classifier.tokenizer(["a lovely thing"], return_tensors="pt")).routing
    best = [[str(int(row.argmax())) for row in logits] for logits in routing.router_logits]
    assert [line.split()[1:] for line in shown[1:6]] == [list(row) for row in zip(*best, strict=True)]
    assert shown[-1] == f"2 experts per token: {answer['label']} {answer['score']:.3f}"


def test_a_classifier_is_upcycled(run, tmp_path):
    write_classifier(tmp_path / "own")
    printed = run("upcycle_a_classifier.py", "own", "with-experts", "--experts", "3")
    assert "largest difference of a logit on 2 texts" in printed
    model = AutoModelForSequenceClassification.from_pretrained("with-experts")
    assert model.config.moe["num_experts"] == 3


def test_an_export_runs_without_this_package(tmp_path):
    """Texts of different lengths, one of 1,200 tokens, of which the model reads 64."""
    pytest.importorskip("openvino")
    model = upcycle(load_classifier(write_backbone(tmp_path / "tiny"), ["negative", "positive"]), MoEConfig())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tiny", model_max_length=64)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    printed = invoke("export", tmp_path / "model", tmp_path / "fast").stdout
    assert "in float32: 10 padded texts of 1 to 64 random tokens, logits differ by at most" in printed
    texts = ["a lovely thing", "the worst thing of all", "awful " * 1200]
    classifier = SentimentClassifier.from_pretrained(tmp_path / "model", precision="float32", long_texts="truncate")
    script = str(EXAMPLES / "run_an_export.py")
    program = f"import runpy, sys; sys.modules['sentimoe'] = None; runpy.run_path({script!r}, run_name='__main__')"
    told = [sys.executable, "-c", program, str(tmp_path / "fast"), *texts, "--batch-size", "2"]
    done = subprocess.run(told, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    scores = [[row["scores"][label] for label in ("negative", "positive")] for row in found]
    np.testing.assert_allclose(scores, classifier.predict_proba(texts), atol=0.02)  # bfloat16 where a processor has it
    assert [row["label"] for row in found] == [max(row["scores"], key=row["scores"].get) for row in found]


def test_all_examples_are_run():
    source = "".join(
        Path(__file__).with_name(f"test_{name}.py").read_text("utf-8") for name in ("examples", "compression")
    )
    assert all(f'"{path.name}"' in source for path in EXAMPLES.glob("*.py"))
