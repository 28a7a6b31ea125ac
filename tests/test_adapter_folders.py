"""Folders of adapters: they find their base in themselves, wherever they lie."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone import labelled_texts, tokenizer, write_backbone
from tiny import batch, dense, texts
from transformers import pipeline

from sentimoe import SentimentClassifier, load_classifier
from sentimoe.errors import ConfigError, ModelFolderError
from sentimoe.methods import adapt, freeze_packed, load_adapted, save_adapted

TEXTS, _ = labelled_texts(6)
LABELS = ["negative", "positive"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone"))


def write_adapter(backbone, folder, head="mean", method="lora", seed=0):
    """An adapter that moves the answers, on a base of its own; what it answers."""
    torch.manual_seed(seed)
    model = load_classifier(backbone, LABELS, head=head)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted = adapt(model, method).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    read = tokenizer()
    read.model_max_length = 32
    save_adapted(adapted, read, folder)
    return SentimentClassifier.from_pretrained(folder, precision="float32").predict_proba(TEXTS)


def piped(folder):
    scores = pipeline("text-classification", model=str(folder), top_k=None)(TEXTS)
    return np.array([[{s["label"]: s["score"] for s in row}[label] for label in LABELS] for row in scores])


@pytest.mark.parametrize("head", ["mean", "native"])
def test_a_moved_adapter_answers_on_its_own_base(backbone, head, tmp_path, monkeypatch):
    """Kind: a path that is right until something moves. Another run, with another base, now lies at the old place."""
    expected = write_adapter(backbone, tmp_path / "run", head)
    (tmp_path / "run").rename(tmp_path / "moved")
    other = write_adapter(backbone, tmp_path / "run", head, seed=1)
    assert abs(other - expected).max() > 0.01
    again = SentimentClassifier.from_pretrained(tmp_path / "moved", precision="float32").predict_proba(TEXTS)
    np.testing.assert_allclose(again, expected, atol=1e-6)
    np.testing.assert_allclose(piped(tmp_path / "moved"), expected, atol=1e-5)
    monkeypatch.chdir(tmp_path / "run")  # where a relative path would find the other base
    np.testing.assert_allclose(piped("../moved"), expected, atol=1e-5)
    shutil.rmtree(tmp_path / "run" / "base")
    with pytest.raises(ModelFolderError, match=r"lacks base/sentimoe_manifest\.json"):
        load_adapted(tmp_path / "run")
    with pytest.raises(ValueError, match=r"base/model\.safetensors"):
        piped(tmp_path / "run")


def test_a_process_without_sentimoe_does_not_load_the_base_alone(backbone, tmp_path):
    """Kind: a folder that others read as something else. The base has a head that nobody trained."""
    write_adapter(backbone, tmp_path / "run", "native")
    program = """import sys, transformers
try:
    transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
except ValueError as error:
    assert "sentimoe-adapter" in str(error) and "sentimoe" not in sys.modules
else:
    sys.exit("it loaded")"""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", program, tmp_path / "run"], check=True, cwd=tmp_path, env=kept, timeout=120)


def test_an_adapter_folder_of_version_0_1_loads(backbone, tmp_path):
    """It had no manifest and no config.json, and named its base by the place where it was written."""
    expected = write_adapter(backbone, tmp_path / "run")
    for name in (
        "config.json",
        "model.safetensors.index.json",
        "sentimoe_manifest.json",
        "base/sentimoe_manifest.json",
    ):
        (tmp_path / "run" / name).unlink()
    again = SentimentClassifier.from_pretrained(tmp_path / "run", precision="float32").predict_proba(TEXTS)
    np.testing.assert_allclose(again, expected, atol=1e-6)


def test_an_adapter_and_a_whole_model_are_not_saved_over_each_other(backbone, tmp_path):
    """Kind: what is left of an earlier save. The old weights, `run.json` and scores stayed, and `info` showed them."""
    write_adapter(backbone, tmp_path / "adapter")
    whole = load_classifier(backbone, LABELS)
    save_adapted(whole, tokenizer(), tmp_path / "whole")
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*.*")}
    with pytest.raises(ConfigError, match=r"whole holds another kind of model .config.json.; choose another folder"):
        save_adapted(adapt(load_classifier(backbone, LABELS), "lora"), tokenizer(), tmp_path / "whole")
    with pytest.raises(ConfigError, match=r"adapter holds another kind of model .adapter_config.json."):
        save_adapted(whole, tokenizer(), tmp_path / "adapter")
    assert before == {path: path.read_bytes() for path in tmp_path.glob("*/*.*")}
    write_adapter(backbone, tmp_path / "adapter", method="p-tuning")  # of the same kind: it takes the place
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["peft_type"] == "P_TUNING"


@torch.no_grad()
def test_an_adapter_on_bfloat16_weights_reloads_bit_for_bit(tmp_path):
    """Kind: weights that are rounded on the way. What was trained is float32, its base is not."""
    adapted = adapt(dense("llama", torch.bfloat16), "lora")
    freeze_packed(adapted)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save_adapted(adapted.eval(), tokenizer(), tmp_path)
    inputs = batch(texts(9, 5))
    expected = adapted.float()(**inputs).logits
    assert torch.equal(load_adapted(tmp_path).float()(**inputs).logits, expected)


def test_virtual_tokens_take_positions_of_the_text(backbone, tmp_path):
    """Without a length in the tokenizer a long text and the virtual tokens were more than the model reads."""
    write_adapter(backbone, tmp_path / "run", method="p-tuning")
    path = tmp_path / "run" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 10**30}))
    classifier = SentimentClassifier.from_pretrained(tmp_path / "run", verify=False)
    assert classifier.engine.max_length == 128 - 20
    assert np.isfinite(classifier.predict_proba(["word " * 500])).all()


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("adapter_config.json", {"use_rslora": 7}, "has use_rslora=7; it must be like False"),
        ("adapter_config.json", {"r": "8"}, "has r='8'; it must be like 8"),
        ("base/config.json", {"dtype": "float32x"}, "cannot be loaded"),
        ("adapter_config.json", {"peft_type": "IA3"}, "has peft_type='IA3'; sentimoe reads LORA and P_TUNING"),
        ("adapter_config.json", {"auto_mapping": {"parent_library": "this"}}, "has auto_mapping=.*does not read"),
        ("adapter_config.json", {"megatron_config": {"a": 1}}, "has megatron_config"),
        ("adapter_config.json", {"target_modules": ["query"]}, "has not the weights that its settings say"),
        ("adapter_config.json", {"r": 4}, "size mismatch"),
        ("base/config.json", {"id2label": {"0": "a", "1": "b"}}, "contradict each other"),
    ],
)
def test_a_damaged_adapter_is_refused(backbone, name, changes, reason, tmp_path):
    write_adapter(backbone, tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelFolderError, match=f"{Path(name).name} is not the file that was saved"):
        load_adapted(tmp_path / "run")
    with pytest.raises(ModelFolderError, match=reason):
        load_adapted(tmp_path / "run", verify=False)
