"""The methods beside each other: what is trained, what is refused, what is left after merging."""

from importlib import import_module

import pytest
import torch
from backbone import labelled_texts, tokenizer, write_backbone
from peft import PeftModel
from tiny import batch, dense, texts
from transformers import pipeline
from transformers.quantizers.quantizers_utils import should_convert_module

from sentimoe import SentimentClassifier
from sentimoe.errors import ConfigError
from sentimoe.methods import METHODS, adapt, freeze_packed, load_adapted, merge, round_packed, save_adapted
from sentimoe.upcycle import divide_logits, moe_layers

CASES = [
    "bert",
    "mpnet",
    "distilbert",
    "electra",
    "deberta-v2",
    "bert-mean",
    "modernbert-mean",
    "nomicbert-mean",
    "llama",
]
PROMPT = {"num_virtual_tokens": 4}
REFUSED = {
    ("bitfit", "modernbert-mean"): "no biases",
    ("bitfit", "llama"): "no biases",
    ("p-tuning", "llama"): "head='mean'",
}


def settings(method):
    return PROMPT if method == "p-tuning" else {}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", ["bitfit", "lora", "p-tuning", "moe-lora"])
def test_only_what_the_method_names_is_trained_and_all_of_it(method, case):
    model = dense(case)
    if (method, case) in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[method, case]):
            adapt(model, method, settings(method))
        return
    adapted = adapt(model, method, settings(method)).train()
    adapted(**batch(texts(9, 5, 7)), labels=torch.tensor([0, 1, 2])).loss.backward()
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in adapted.named_parameters() if parameter.grad is not None} == trained
    marks = {
        "bitfit": ("bias",),
        "lora": ("lora_",),
        "p-tuning": ("prompt_encoder",),
        "moe-lora": ("lora_", "router"),
    }[method]
    head = ("classifier", "score", "pre_classifier", "pooler")
    assert all(any(mark in name for mark in marks + head) for name in trained)
    assert any("classifier" in name or "score" in name for name in trained)
    assert all(any(mark in name for name in trained) for mark in marks)


@pytest.mark.parametrize("case", ["bert-mean", "mpnet", "llama", "modernbert-mean"])
@pytest.mark.parametrize("method", ["lora", "moe-lora"])
def test_merging_changes_nothing_but_the_speed(method, case):
    model = dense(case)
    kind, inputs = type(model), batch(texts(9, 5))
    adapted = adapt(model, method).eval()
    with torch.no_grad():
        before = adapted(**inputs).logits
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        moved = adapted(**inputs).logits
        merged = merge(adapted, method)
        assert (moved - before).abs().max() > 1e-3
        torch.testing.assert_close(merged(**inputs).logits, moved, rtol=1e-4, atol=1e-4)
    assert not isinstance(merged, PeftModel) and len(moe_layers(merged)) == (2 if method == "moe-lora" else 0)
    assert method == "moe-lora" or type(merged) is kind


@pytest.mark.parametrize("method", ["lora", "p-tuning", "moe-lora"])
@torch.no_grad()
def test_an_adapter_is_saved_with_the_model_it_belongs_to(method, tmp_path):
    inputs = batch(texts(9, 5))
    adapted = adapt(dense("bert-mean"), method, settings(method)).eval()
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    expected = adapted(**inputs).logits
    save_adapted(adapted, tokenizer(), tmp_path)
    torch.testing.assert_close(load_adapted(tmp_path)(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(adapted(**inputs).logits, expected)  # saving changes nothing


@pytest.mark.parametrize("method", ["lora", "p-tuning"])
@torch.no_grad()
def test_a_temperature_goes_into_the_trained_head_of_an_adapter(method):
    inputs, adapted = batch(texts(9, 5)), adapt(dense("bert-mean"), method, settings(method)).eval()
    before = adapted(**inputs).logits
    divide_logits(adapted, 2.5)
    torch.testing.assert_close(adapted(**inputs).logits * 2.5, before, rtol=1e-4, atol=1e-5)


def test_p_tuning_from_texts_to_a_folder_and_back(tmp_path):
    examples, labels = labelled_texts(120)
    backbone = write_backbone(tmp_path / "backbone")
    classifier = SentimentClassifier(
        model=backbone, method="p-tuning", method_settings=PROMPT, epochs=1, max_length=32, precision="float32"
    ).fit(examples, labels)
    classifier.save_pretrained(tmp_path / "saved")
    loaded = SentimentClassifier.from_pretrained(tmp_path / "saved", precision="float32")
    assert abs(loaded.predict_proba(examples) - classifier.predict_proba(examples)).max() < 1e-5


@pytest.mark.parametrize("method", ["lora", "moe-lora"])
def test_the_pipeline_reads_an_adapter_on_the_model_it_belongs_to(method, tmp_path):
    examples, labels = labelled_texts(60)
    backbone = write_backbone(tmp_path / "backbone")
    told = {"epochs": 1, "max_length": 32, "precision": "float32", "merge": False, "learning_rate": 1e-2}
    classifier = SentimentClassifier(model=backbone, method=method, **told).fit(examples, labels)
    classifier.save_pretrained(tmp_path / "saved")
    classifier.save_pretrained(tmp_path / "saved")  # an adapter over an adapter
    answers = pipeline("text-classification", model=str(tmp_path / "saved"))(examples)
    expected = classifier(examples)
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
    assert max(abs(a["score"] - b["score"]) for a, b in zip(answers, expected, strict=True)) < 1e-5


def test_unknown_methods_and_settings_say_what_there_is():
    with pytest.raises(ConfigError, match="bitfit"):
        adapt(dense("bert"), "magic")
    with pytest.raises(ConfigError, match="it accepts: none"):
        adapt(dense("bert"), "full", {"num_experts": 4})
    assert {"full", "bitfit", "lora", "p-tuning", "moe-plain", "moe-gated", "moe-lora"} <= set(METHODS)


@pytest.mark.parametrize("method", ["lora", "moe-gated"])
def test_frozen_weights_stay_small_and_what_is_trained_is_float32(method):
    model = dense("llama", torch.bfloat16)
    adapted = adapt(model, method)
    freeze_packed(adapted)
    adapted.train()
    with torch.autocast("cpu", torch.bfloat16):
        adapted(**batch(texts(9, 5, 7)), labels=torch.tensor([0, 1, 2])).loss.backward()
    trained = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    frozen = [parameter for parameter in adapted.parameters() if not parameter.requires_grad]
    assert all(parameter.dtype == torch.float32 and parameter.grad is not None for parameter in trained.values())
    assert all(parameter.dtype == torch.bfloat16 and parameter.grad is None for parameter in frozen)
    marks = ("lora_", "score") if method == "lora" else (".experts.", ".router.", "score")
    assert all(any(mark in name for mark in marks) for name in trained)
    assert all(any(mark in name for name in trained) for mark in marks)


def test_experts_beside_frozen_weights_reload_bit_for_bit(tmp_path):
    model = adapt(dense("llama", torch.bfloat16), "moe-gated")
    freeze_packed(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.01 * torch.randn_like(parameter)
    round_packed(model)
    save_adapted(model.eval(), tokenizer(), tmp_path)
    loaded = load_adapted(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


def test_four_bits_where_cuda_is(monkeypatch):
    frozen = import_module("sentimoe.upcycle.frozen")
    assert frozen.frozen_weights([2]) == {"dtype": torch.bfloat16}  # no CUDA in these tests
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(frozen, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        frozen.frozen_weights([2])
    monkeypatch.setattr(frozen, "find_spec", lambda name: name)
    told = frozen.frozen_weights([2])["quantization_config"]
    assert told.load_in_4bit and told.bnb_4bit_quant_type == "nf4" and told.bnb_4bit_compute_dtype == torch.bfloat16
    skipped = told.llm_int8_skip_modules
    for name, kept in [("layers.2.mlp.up_proj", True), ("layers.1.mlp.up_proj", False), ("layers.12.mlp", False)]:
        assert should_convert_module(f"model.{name}", skipped) is not kept
    assert not should_convert_module("score", skipped)


def test_only_methods_that_freeze_take_four_bits():
    with pytest.raises(ConfigError, match="load_in_4bit needs a method that leaves weights frozen: lora, moe-plain"):
        SentimentClassifier(method="full", load_in_4bit=True).fit(*labelled_texts(40))
