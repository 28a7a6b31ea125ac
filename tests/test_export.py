"""The OpenVINO backend: the same answers as torch, sparse experts, folders that say what they are."""

import dataclasses
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone import labelled_texts, tokenizer, write_backbone
from huggingface_hub import ModelCard
from openvino import Core
from test_split import kind, real
from tiny import batch, dense, scatter, texts
from transformers import AutoTokenizer
from typer.testing import CliRunner

import sentimoe_cli
from sentimoe import MoEConfig, SentimentClassifier, load_classifier, upcycle
from sentimoe.errors import ConfigError, ConversionError, ModelFolderError
from sentimoe.inference import Engine, conversion, openvino
from sentimoe.inference import exported as exporting

WAYS = {
    "dense": lambda case: dense(case),
    "copies": lambda case: scatter(upcycle(dense(case), MoEConfig(num_experts_per_tok=2))),
    "one copy": lambda case: scatter(upcycle(dense(case), MoEConfig(num_experts_per_tok=1))),
    "split": lambda case: upcycle(
        dense(case), MoEConfig(init="split", expert=kind(case), num_experts=5, num_shared_experts=1), texts=real()
    ),
}


@torch.no_grad()
@pytest.mark.parametrize(
    ("case", "way"),
    [
        ("bert", "dense"),
        ("bert-mean", "copies"),
        ("distilbert-mean", "one copy"),
        ("mpnet", "split"),
        ("modernbert-mean", "split"),  # sliding windows: rows that see nothing but padding
        ("nomicbert-mean", "split"),
        ("gpt2-mean", "copies"),
        ("llama", "split"),
    ],
)
def test_the_same_logits_for_any_batch_and_length(case, way):
    torch.manual_seed(0)
    model = WAYS[way](case)
    compiled = conversion.compiled(model, torch.float32, 40)
    for lengths, extra in (((9, 5, 12), 0), ((4,), 3), ((7, 7), 0)):
        inputs = batch(texts(*lengths), extra=extra)
        np.testing.assert_allclose(compiled(**inputs).logits, model(**inputs).logits, rtol=1e-3, atol=2e-4)


def test_a_size_that_the_tracer_fixed_is_found(monkeypatch):
    """It is right for the batch that was traced, and wrong for any other."""
    model = dense("bert")
    plain = type(model.bert.encoder).forward

    def fixed(self, hidden, *args, **kwargs):
        output = plain(self, hidden, *args, **kwargs)
        output.last_hidden_state = output.last_hidden_state * (32 / int(hidden.shape[1]))
        return output

    monkeypatch.setattr(type(model.bert.encoder), "forward", fixed)
    with pytest.raises(ConversionError, match="answers differently"):
        conversion.compiled(model, torch.float32, 40)


def test_a_network_that_openvino_cannot_run_is_no_full_disk(monkeypatch, tmp_path):
    """Kind: standard input or output: Input/output error."""

    def fails(*given):
        raise RuntimeError("Exception from src/inference:\nshapes are inconsistent")

    model = dense("bert", vocab_size=len(tokenizer()))
    monkeypatch.setattr(conversion, "_compared", fails)
    with pytest.raises(ConversionError, match=r"cannot run the exported Bert.* \(shapes are inconsistent\); use"):
        exporting.export(model, tokenizer(), tmp_path / "out")


def test_what_cannot_be_traced_is_refused():
    model = dense("bert")
    model.classifier.forward = lambda hidden: hidden.to_sparse().to_dense()[:, :3]
    root = logging.getLogger()
    before = root.level, list(root.filters), list(root.handlers)
    with pytest.raises(ConversionError, match="cannot convert this BertForSequenceClassification"):
        conversion.compiled(model, torch.float32, 40)
    assert (root.level, root.filters, root.handlers) == before  # OpenVINO left it at ERROR: no warning was seen again


def test_experts_stay_sparse(tmp_path):
    """No matrix product reads all (token, choice) pairs: each expert has one of its own, fed by a gather."""
    file = tmp_path / "model.xml"
    conversion.convert(WAYS["split"]("bert"), 40, file, [torch.float32])
    network = Core().read_model(file)
    kinds = [node.get_type_name() for node in network.get_ops()]
    assert kinds.count("NonZero") == 3 * 5
    assert not {"ScatterNDUpdate", "Loop", "If"} & set(kinds)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    backbone = write_backbone(folder / "backbone")
    model, tokenizer = load_classifier(backbone, ["negative", "positive"]), AutoTokenizer.from_pretrained(backbone)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    given = [dict(tokenizer(labelled_texts(40)[0], padding=True, return_tensors="pt"))]
    model = upcycle(model, MoEConfig(init="split", expert="plain", num_experts=7, num_shared_experts=1), texts=given)
    tokenizer.model_max_length = 64
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def exported(run):
    result = CliRunner().invoke(sentimoe_cli.app, ["export", str(run / "model"), str(run / "fast")])
    assert result.exit_code == 0, result.output
    return run / "fast"


def test_an_exported_folder_answers_like_the_model(run, exported):
    texts = ["a great thing", "", "the worst thing " * 40, "x"]
    theirs = SentimentClassifier.from_pretrained(run / "model", precision="float32")
    ours = SentimentClassifier.from_pretrained(run / "fast", precision="float32")
    np.testing.assert_allclose(ours.predict_proba(texts), theirs.predict_proba(texts), atol=1e-5)
    assert ours.label_names == ["negative", "positive"]
    about = json.loads((run / "fast" / "sentimoe_export.json").read_text())
    assert about["labels"] == ["negative", "positive"] and about["experts_per_token"] == 2
    shown = CliRunner().invoke(sentimoe_cli.app, ["info", str(run / "fast")])
    assert json.loads(shown.output) == about
    card = ModelCard.load(run / "fast" / "README.md")
    assert "exported for OpenVINO" in card.text and "| labels | negative, positive |" in card.text
    assert "2 read each token" in card.text and card.data.to_dict()["pipeline_tag"] == "text-classification"
    with pytest.raises(ConfigError, match="is not empty"):
        theirs.export(run / "fast")
    with pytest.raises(ConfigError, match="with its experts per token fixed"):
        SentimentClassifier.from_pretrained(run / "fast", num_experts_per_tok=1)


@pytest.mark.parametrize("folder", ["model", "fast"])
def test_threads_get_their_own_answers(run, exported, folder):
    """Shared state: one inference request among threads gave each the others' answers."""
    ours = SentimentClassifier.from_pretrained(run / folder, precision="float32", backend="openvino")
    texts = [f"text {number} " + "thing " * number for number in range(8)]
    alone = np.stack([ours.predict_proba([text]) for text in texts])
    for count in (2, 8):
        start = threading.Barrier(count)

        def ask(text, start=start):
            start.wait()
            return [ours.predict_proba([text]) for _ in range(100)]

        with ThreadPoolExecutor(count) as pool:
            for answers, expected in zip(pool.map(ask, texts[:count]), alone, strict=False):
                np.testing.assert_array_equal(answers, [expected] * 100)


MANY_SIZES = """
import ctypes
import torch
from tiny import dense
from sentimoe.inference.conversion import compiled

class Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "a o s h hblkhd u f uordblks fordblks k".split()]

memory = ctypes.CDLL(None).mallinfo2
memory.restype = Memory
model = compiled(dense("bert-mean"), torch.float32, 40)
for rows in range(1, 21):
    for length in range(1, 21):
        ids = torch.ones(rows, length, dtype=torch.long)
        model(input_ids=ids, attention_mask=ids)
    if rows in (10, 20):
        print(memory().uordblks)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc says what is in use")
def test_memory_does_not_grow_with_the_sizes_of_batches():
    """Products for every size ever seen stayed compiled: 0.3 MB a size in this tiny model, gigabytes in a long job.

    oneDNN's own store, which is bounded, is kept small, so that it does not hide what OpenVINO keeps.
    """
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8", "PYTHONPATH": paths}
    told = [sys.executable, "-c", MANY_SIZES]
    found = subprocess.run(told, env=environment, capture_output=True, text=True, check=True).stdout
    before, after = map(int, found.split())
    assert after - before < 10e6  # 0.4 MB; 60 MB where all 400 sizes stay


def test_the_dial_on_the_command_line(run):
    def scores(*options):
        told = ["predict", "--model", str(run / "model"), "a great thing", "--precision", "float32", *options]
        told += ["--probabilities"]
        return json.loads(CliRunner().invoke(sentimoe_cli.app, told).output)["prob_positive"]

    saved, one = scores(), scores("--experts-per-token", "1")
    assert saved != pytest.approx(one, abs=1e-6) and saved == scores("--experts-per-token", "2")
    assert scores("--backend", "openvino") == pytest.approx(saved, abs=1e-5)
    assert scores("--backend", "openvino", "--experts-per-token", "1") == pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        ("tokenizer.json", '"great"', '"grate"', "tokenizer.json .* is not the one of the export"),
        ("openvino_model.xml", "f32", "f64", "openvino_model.xml .* is not the one of the export"),
        (
            "tokenizer_config.json",
            '"model_max_length": ',
            '"model_max_length": 1',
            "has model_max_length=1.*, its descr",
        ),
        ("sentimoe_export.json", '"positive"', '"good"', "its description says"),
        ("sentimoe_export.json", "openvino-1", "openvino-9", "this version reads"),
    ],
)
def test_a_folder_that_does_not_fit_together_is_refused(exported, tmp_path, file, old, new, reason):
    folder = shutil.copytree(exported, tmp_path / "export")
    path = folder / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ModelFolderError, match=f"{file} is not the file that was saved"):
        SentimentClassifier.from_pretrained(folder)
    with pytest.raises(ModelFolderError, match=re.compile(reason)):
        SentimentClassifier.from_pretrained(folder, verify=False)


def test_single_texts_come_in_few_sizes_and_are_answered_as_before(run, monkeypatch):
    classifier = SentimentClassifier.from_pretrained(run / "model", precision="float32", backend="openvino")
    texts = ["the " + " ".join(["lovely"] * count) + " thing" for count in range(1, 13)]
    sizes, answer = set(), classifier.engine.model._run
    monkeypatch.setattr(
        classifier.engine.model, "_run", lambda given: sizes.add(given["input_ids"].shape) or answer(given)
    )
    alone = np.concatenate([classifier.predict_proba([text]) for text in texts])
    assert len(sizes) <= 2 and {rows for rows, _ in sizes} == {1}
    trained = SentimentClassifier.from_pretrained(run / "model", precision="float32")
    np.testing.assert_allclose(alone, trained.predict_proba(texts), atol=1e-5)


def test_missing_openvino_and_unknown_backends_are_named(run, monkeypatch):
    classifier = SentimentClassifier.from_pretrained(run / "model")
    with pytest.raises(ConfigError, match=r"backend='magic' must be one of \('torch', 'openvino'\)"):
        Engine(classifier.model, classifier.tokenizer, backend="magic")
    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'sentimoe\[openvino\]'"):
        Engine(classifier.model, classifier.tokenizer, backend="openvino")


def test_a_model_that_was_just_trained_answers_and_exports_as_its_saved_folder_does(tmp_path):
    """Wrong answers: autocast went on after training, so "float32" was bfloat16, and export refused it."""
    told = {"method": "moe-gated", "epochs": 2, "max_length": 32, "precision": "bfloat16"}
    classifier = SentimentClassifier(**told).fit(*labelled_texts(80))
    classifier.save_pretrained(tmp_path / "saved")
    texts = ["a lovely thing", "the worst of all things"]
    loaded = SentimentClassifier.from_pretrained(tmp_path / "saved", precision="float32")
    trained = Engine(classifier.model, classifier.tokenizer, precision="float32")
    np.testing.assert_array_equal(trained.predict_proba(texts), loaded.predict_proba(texts))
    float32, *_ = classifier.export(tmp_path / "export")
    assert float32.max_abs_logit_diff < 1e-5 and float32.routed_tokens > 0
    about = json.loads((tmp_path / "export" / "sentimoe_export.json").read_text())
    assert about["compared"][0] == dataclasses.asdict(float32)
