"""A saved model is a Hugging Face folder that loads bit for bit, and that nothing loads by accident."""

import copy
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone import tokenizer
from tiny import CASES, CONFIGS, FAMILIES, LABELS, MEAN, batch, dense, scatter, sparse, texts
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, BartConfig

from sentimoe import MoEConfig, SentimentClassifier, load_classifier, upcycle
from sentimoe.errors import ConfigError, ModelFolderError, NotSupportedError, WeightsError
from sentimoe.methods import load_adapted, save_adapted
from sentimoe.upcycle import moe_layers


def reload(folder, **kwargs):
    return AutoModelForSequenceClassification.from_pretrained(folder, **kwargs)


@torch.no_grad()
@pytest.mark.parametrize(
    ("case", "dtype"),
    [*((case, torch.float32) for case in CASES), *((case, torch.bfloat16) for case in ("bert", "llama", "bert-mean"))],
)
def test_reload_is_bit_for_bit(case, dtype, tmp_path):
    model, inputs = sparse(case, dtype, num_experts=3, init_noise=0.1), batch(texts(9, 4, 12), extra=2)
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    assert json.loads((tmp_path / "config.json").read_text())["id2label"] == {"0": "bad", "1": "fair", "2": "good"}
    loaded = reload(tmp_path)
    assert type(loaded) is type(model) and not loaded.training
    assert (loaded.moe_receipt, loaded.moe_config) == (model.moe_receipt, model.moe_config)
    assert loaded.config.id2label == LABELS["id2label"] and loaded.config.label2id == LABELS["label2id"]
    expected, found = model(**inputs), loaded(**inputs)
    assert found.logits.dtype == dtype and torch.equal(found.logits, expected.logits)
    for field in ("aux_loss", "expert_load", "router_logits"):
        assert_close(getattr(found, field), getattr(expected, field), rtol=0, atol=0)
    state, again = model.state_dict(), loaded.state_dict()
    assert list(state) == list(again) and all(torch.equal(state[name], again[name]) for name in state)


@torch.no_grad()
@pytest.mark.parametrize("case", ["bert", "llama", "bert-mean"])
def test_a_second_generation_can_be_trained_and_saved_again(case, tmp_path):
    sparse(case).save_pretrained(tmp_path / "first")
    model, inputs = reload(tmp_path / "first"), batch(texts(9, 4), extra=2)
    scatter(model).save_pretrained(tmp_path / "second")
    assert torch.equal(reload(tmp_path / "second")(**inputs).logits, model(**inputs).logits)


@torch.no_grad()
@pytest.mark.parametrize("case", ["bert-mean", "gpt2-mean", "modernbert-mean"])
def test_a_dense_model_with_a_mean_head_reloads_and_can_be_converted(case, tmp_path):
    model, inputs = dense(case), batch(texts(9, 4), extra=2)
    model.save_pretrained(tmp_path)
    loaded = reload(tmp_path)
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert loaded.moe_receipt is None and loaded.moe_config is None
    assert_close(upcycle(loaded)(**inputs).logits, model(**inputs).logits, rtol=1e-4, atol=1e-4)


FIXTURES = Path(__file__).parent / "fixtures" / "version_0_1"


@pytest.mark.parametrize("head", ["native", "mean", "split"])
def test_a_folder_of_version_0_1_answers_as_it_did(head, tmp_path):
    told = json.loads((FIXTURES / head / "expected.json").read_text())
    classifier = SentimentClassifier.from_pretrained(FIXTURES / head, precision="float32")
    assert_close(classifier.predict_proba(told["texts"]), np.float32(told["probabilities"]), rtol=0, atol=1e-6)
    classifier.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["format_version"] == "1.0"
    again = SentimentClassifier.from_pretrained(tmp_path, precision="float32")
    assert_close(again.predict_proba(told["texts"]), np.float32(told["probabilities"]), rtol=0, atol=1e-6)


def rewrite(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_newer_minor_version_loads_with_a_warning_and_a_newer_major_one_is_refused(tmp_path):
    model, inputs = sparse(), batch(texts(9, 4))
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, format_version="1.7", moe=model.config.moe | {"sparsity_of_2030": 3}, shape_of_2030="round")
    with pytest.warns(UserWarning, match="has format 1.7, newer than 1.0"):
        loaded = reload(tmp_path)
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    rewrite(tmp_path, format_version="2.0")
    with pytest.raises(ModelFolderError, match=r"has format 2.0, this sentimoe reads up to 1.x: update it"):
        reload(tmp_path)


def test_id2label_is_written_even_when_it_is_the_default(tmp_path):
    upcycle(dense(id2label={0: "LABEL_0", 1: "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})).save_pretrained(
        tmp_path
    )
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
    assert saved["label2id"] == {"LABEL_0": 0, "LABEL_1": 1}


def test_no_path_of_this_machine_is_saved(tmp_path):
    dense().save_pretrained(tmp_path / "base")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    upcycle(loaded).save_pretrained(tmp_path / "experts")
    assert str(tmp_path) not in (tmp_path / "experts" / "config.json").read_text()


def test_config_json_is_the_base_config_plus_ours(tmp_path):
    sparse().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["model_type"], saved["head"], saved["format_version"]) == ("sentimoe", "native", "1.0")
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config.base_config, type(CONFIGS["bert"])) and config.moe["num_experts"] == 4


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"base_config": {"model_type": "no-such"}}, "no-such"),
        ({"head": "hydra"}, "hydra"),
        ({"base_config": {}}, "None"),
    ],
)
def test_a_damaged_config_is_refused(change, match, tmp_path):
    sparse().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=match):
        reload(tmp_path)


@pytest.mark.parametrize("family", ["bert", "llama", "distilbert"])
def test_the_headless_auto_class_does_not_drop_the_experts(family, tmp_path):
    sparse(family).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModel.from_pretrained(tmp_path)


WITHOUT_SENTIMOE = """
import json, sys
import transformers
from transformers import AutoModel, AutoModelForSequenceClassification
from transformers.utils import logging
logging.set_verbosity_error()
accepted = []
for folder, names in json.loads(sys.argv[1]).items():
    for name in names:
        try:
            getattr(transformers, name).from_pretrained(folder)
        except (RuntimeError, ValueError, KeyError):
            continue
        accepted.append((folder, name))
assert "sentimoe" not in sys.modules
print(json.dumps(accepted))
"""


def test_a_process_without_sentimoe_refuses_the_folder(tmp_path):
    """Not one of the plain classes may load it: it would warn and run with a random FFN."""
    folders = {}
    for case in [*FAMILIES, *MEAN]:
        sparse(case, layers_to_transform=[-1]).save_pretrained(tmp_path / case)
        config = type(CONFIGS[case.removesuffix("-mean")])
        classes = [auto._model_mapping[config].__name__ for auto in (AutoModel, AutoModelForSequenceClassification)]
        folders[str(tmp_path / case)] = [*classes, "AutoModel", "AutoModelForSequenceClassification"]
    plain = tmp_path / "plain"  # the control: these classes do load a dense folder
    dense("distilbert").save_pretrained(plain)
    folders[str(plain)] = ["DistilBertForSequenceClassification", "AutoModelForSequenceClassification"]
    command = [sys.executable, "-c", WITHOUT_SENTIMOE, json.dumps(folders)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    accepted = json.loads(done.stdout.splitlines()[-1])
    assert accepted == [[str(plain), name] for name in folders[str(plain)]]


@torch.no_grad()
@pytest.mark.parametrize("case", ["bert", "llama", "gpt2-mean", "modernbert"])
@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_copies_are_independent_and_equal(case, clone):
    model, inputs = sparse(case), batch(texts(9, 4), extra=2)
    expected = model(**inputs)
    cloned = clone(model)
    assert type(cloned) is type(model) and cloned.moe_receipt == model.moe_receipt
    scatter(model)
    found = cloned(**inputs)
    assert torch.equal(found.logits, expected.logits) and torch.equal(found.aux_loss, expected.aux_loss)
    assert not torch.equal(model(**inputs).logits, expected.logits)


def test_a_pickle_loads_in_a_fresh_process(tmp_path):
    """Workers that are spawned (data loaders, Ray) get the model this way."""
    model, inputs = sparse(), batch(texts(9, 4))
    (tmp_path / "model.pkl").write_bytes(pickle.dumps((model, inputs, model(**inputs).logits.detach())))
    script = "import pickle, sys; m, i, l = pickle.load(open(sys.argv[1], 'rb')); assert m(**i).logits.equal(l)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "model.pkl")], check=True, timeout=120)


@torch.no_grad()
def test_converted_settings_survive(tmp_path):
    settings = MoEConfig(num_experts=3, num_experts_per_tok=1, expert="plain", layers_to_transform=[0, -1])
    upcycle(dense(), settings).save_pretrained(tmp_path)
    loaded = reload(tmp_path)
    stored = loaded.moe_config
    assert (stored.num_experts, stored.num_experts_per_tok, stored.expert) == (3, 1, "plain")
    assert [bool(moe_layers(layer)) for layer in loaded.base.bert.encoder.layer] == [True, False, True]
    assert all(not moe.experts.has_gate and moe.num_experts_per_tok == 1 for moe in moe_layers(loaded))


def test_missing_experts_are_not_filled_with_chance(tmp_path):
    """A checkpoint without some expert weights must not load as if it were trained."""
    from safetensors.torch import load_file, save_file

    sparse().save_pretrained(tmp_path)
    path: Path = tmp_path / "model.safetensors"
    weights = load_file(path)
    save_file(
        {name: value for name, value in weights.items() if "layer.2.output.dense.experts" not in name},
        path,
        metadata={"format": "pt"},
    )
    with pytest.raises(Exception, match="experts"):
        reload(tmp_path)


def test_what_was_not_trained_is_not_loaded_as_if_it_were(tmp_path):
    """A backbone alone, in place of a classifier, and one that lacks a layer of its backbone."""
    model = dense("bert")
    model.base_model.save_pretrained(tmp_path / "backbone")
    with pytest.raises(WeightsError, match=r"is not a trained classifier: it lacks .*classifier"):
        load_adapted(tmp_path / "backbone")
    weights = {name: tensor for name, tensor in model.state_dict().items() if ".layer.1." not in name}
    model.save_pretrained(tmp_path / "part", state_dict=weights)
    with pytest.raises(ConfigError, match=r"lacks weights of its backbone .*layer.1"):
        load_classifier(str(tmp_path / "part"), ["bad", "fair", "good"], head="native")
    assert load_classifier(str(tmp_path / "backbone"), ["bad", "fair", "good"], head="native").num_labels == 3


def test_weights_in_a_pickle_are_not_read(tmp_path):
    """Kind: a file that can run code when it is read."""
    model = dense("bert")
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelFolderError, match="safetensors"):
        load_adapted(tmp_path)
    cached = tmp_path / "snapshots" / "abc"  # of the hub's cache, into which the pickle is not brought
    cached.mkdir(parents=True)
    shutil.copy(tmp_path / "config.json", cached)
    with pytest.raises(ModelFolderError, match=r"the repository on the hub has no model.safetensors .*can run code"):
        load_adapted(cached)


def test_an_encoder_decoder_is_refused_before_it_is_trained_or_asked(tmp_path):
    """Kind: an error after the last epoch; a whole folder that is called damaged."""
    config = BartConfig(
        vocab_size=99, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, **LABELS,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    for load in (load_adapted, lambda folder: load_classifier(str(folder), ["bad", "fair", "good"], head="native")):
        with pytest.raises(NotSupportedError, match=r"is an encoder-decoder \(bart\).*give an encoder or a decoder"):
            load(tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("case", ["bert", "roberta", "gpt2"])
def test_a_stored_head_answers_the_same_whatever_order_the_data_has_its_labels_in(case, tmp_path):
    model, inputs = dense(case), batch(texts(9, 4, 12))
    model.save_pretrained(tmp_path)
    again = load_classifier(str(tmp_path), ["good", "bad", "fair"], head="native").eval()
    assert_close(again(**inputs).logits, model(**inputs).logits[:, [2, 0, 1]], rtol=0, atol=0)
    with pytest.raises(ConfigError, match=r"is a classifier of \['bad', 'fair', 'good'\].* head='mean'"):
        load_classifier(str(tmp_path), ["bad", "fair", "great"], head="native")
    model.config.id2label = {index: f"LABEL_{index}" for index in range(3)}
    model.config.label2id = {f"LABEL_{index}": index for index in range(3)}
    model.save_pretrained(tmp_path)
    unnamed = load_classifier(str(tmp_path), ["good", "bad", "fair"], head="native").eval()
    assert torch.equal(unnamed(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("other", ["adapter_config.json", "sentimoe_export.json"])
def test_a_folder_of_another_kind_is_not_saved_over(tmp_path, other):
    (tmp_path / other).write_text("{}")
    with pytest.raises(ConfigError, match=f"holds another kind of model .{other}"):
        save_adapted(dense("bert"), tokenizer(), tmp_path)


def test_an_unfilled_model_is_not_memory_garbage():
    """From a config alone the experts are drawn at random, as every other weight is."""
    model = AutoModelForSequenceClassification.from_config(sparse().config)
    for moe in moe_layers(model):
        for name, parameter in moe.named_parameters():
            assert parameter.isfinite().all() and parameter.abs().max() < 1, name
            if not name.endswith("bias"):
                assert 0.005 < parameter.std() < 0.1, name
