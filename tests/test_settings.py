"""Settings are of their type and in their range, or refused by name before anything is loaded.

Kind of fault: 4.5 experts, a batch of 2.5 texts, `class_weights: "no"` read as true, -5 as weight decay.
"""

import dataclasses
import typing
from pathlib import Path

import numpy as np
import pytest
import yaml
from backbone import write_backbone
from sklearn.base import clone
from transformers import AutoTokenizer

from sentimoe import MoEConfig, SentimentClassifier, load_classifier, upcycle
from sentimoe.config import FFNLayout
from sentimoe.data import dataset_from_texts
from sentimoe.errors import ConfigError
from sentimoe.inference import Engine
from sentimoe.methods import METHODS
from sentimoe.training import TrainConfig, prepare
from sentimoe.training.prepare import with_recipe
from sentimoe.upcycle import set_experts_per_token
from sentimoe_settings import METHOD_SETTINGS, check_settings

WRONG = {
    int: [4.5, 4.0, True, "4", np.int64(4), [4], float("nan")],
    float: [True, "0.1", float("nan"), float("inf"), [0.1], 1j],
    bool: ["no", "false", 0, 1, 0.0],
    str: [5, b"bytes", ["a", 1], True],
}


@pytest.mark.parametrize("config_class", [TrainConfig, MoEConfig])
def test_every_field_refuses_every_value_of_another_type(config_class) -> None:
    checked = 0
    for name, kind in typing.get_type_hints(config_class).items():
        simple = kind if kind in WRONG else next((each for each in typing.get_args(kind) if each in WRONG), None)
        for wrong in WRONG.get(simple, []):
            checked += 1
            with pytest.raises(ConfigError, match=name) as caught:
                config_class(**{name: wrong})
            assert "\n" not in str(caught.value)
    assert checked > (150 if config_class is TrainConfig else 30)


def test_values_of_the_right_type_are_taken() -> None:
    for config_class in (TrainConfig, MoEConfig):
        plain = config_class()
        assert config_class.from_dict(plain.to_dict()) == plain
    for given in ([-2, -1], (-2, -1), "-2,-1", "-2, -1", range(-2, 0)):
        assert MoEConfig(layers_to_transform=given).layers_to_transform == (-2, -1)
    assert MoEConfig(layers_to_transform=-1).layers_to_transform == (-1,)
    paths = TrainConfig(model=Path("a/b"), data=Path("c"), teacher=[Path("d"), "e"], unlabelled=Path("f")).to_dict()
    assert [paths[name] for name in ("model", "data", "teacher", "unlabelled")] == ["a/b", "c", ["d", "e"], "f"]
    kept = TrainConfig(
        method="moe-gated", method_settings={"layers_to_transform": "-1"}, weight_decay=np.float64(0.5)
    ).to_dict()
    assert yaml.safe_load(yaml.safe_dump(kept)) == kept and kept["method_settings"] == {"layers_to_transform": [-1]}
    assert TrainConfig(learning_rate=1, teacher=["a", "b"], distillation_weight=1).learning_rate == 1


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"seed": -1}, "0 or more"),
        ({"seed": 2**32}, "below 4294967296"),
        ({"seed": 1.5}, "a whole number"),
        ({"batch_size": 2.5}, "a whole number"),
        ({"weight_decay": -5}, "0 or more"),
        ({"weight_decay": float("nan")}, "a plain number"),
        ({"router_learning_rate": -1.0}, "0 or more"),
        ({"class_weights": "no"}, "true or false"),
        ({"learning_rate": 10**400}, "a plain number"),
        ({"teacher": [1]}, "a list, each a string"),
        ({"method_settings": [4]}, "names with values"),
    ],
)
def test_training_settings_say_what_was_given_and_what_is_allowed(change, allowed) -> None:
    (name,) = change
    with pytest.raises(ConfigError, match=f"^{name}=.*{allowed}"):
        TrainConfig(**change)


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"num_experts": 4.5}, "a whole number"),
        ({"layers_to_transform": "-2;-1"}, "a list, each a whole number"),
        ({"layers_to_transform": [-1.0]}, "a list, each a whole number"),
        ({"init": "zero"}, "one of 'copy'"),
        ({"router_z_loss_coef": float("inf")}, "a plain number"),
        ({"ffn": {"up": "up"}}, "missing"),
        ({"ffn": {"up": 1, "down": "down", "act": "act", "replace": "ffn"}}, "a string"),
        ({"ffn": {"up": "up", "sideways": "x"}}, "unknown settings"),
    ],
)
def test_expert_settings_say_what_is_allowed(change, allowed) -> None:
    with pytest.raises(ConfigError, match=allowed):
        MoEConfig(**change)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("moe-gated", {"num_experts": 4.5}),
        ("moe-split", {"num_shared_experts": "1"}),
        ("lora", {"r": 2.5}),
        ("lora", {"r": 0}),
        ("lora", {"lora_dropout": 1}),
        ("moe-lora", {"lora_alpha": -16}),
        ("p-tuning", {"num_virtual_tokens": "4"}),
        ("p-tuning", {"encoder_hidden_size": True}),
        ("zero-shot", {"mode": 3}),
    ],
)
def test_method_settings_are_checked_before_the_backbone_is_loaded(method, settings) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=f"{name}=.* is not allowed; it must be"):
        check_settings(method, settings)
    if METHODS[method].adapt is not None:
        texts = dataset_from_texts([f"text {i}" for i in range(60)], [i % 2 for i in range(60)])
        with pytest.raises(ConfigError, match=f"{name}="):
            prepare(TrainConfig(model="no/such-model", method=method, method_settings=settings), texts)


def test_every_method_setting_has_a_type() -> None:
    """A setting without one would pass unchecked, or fail as a KeyError."""
    assert list(METHODS) == list(METHOD_SETTINGS)
    for method, told in METHOD_SETTINGS.items():
        for name in told:
            with pytest.raises(ConfigError, match=name):
                check_settings(method, {name: object()})


def test_engine_arguments_are_checked(tmp_path) -> None:
    folder = write_backbone(tmp_path)
    model, tokenizer = load_classifier(folder, ["a", "b"]), AutoTokenizer.from_pretrained(folder)
    for wrong in (
        {"max_length": 0},
        {"max_length": 2},  # its special tokens alone: every text would be blank
        {"max_length": 16.0},
        {"tokens_per_batch": 0},
        {"tokens_per_batch": "8"},
        {"tokens_per_batch": None},
        {"long_texts": "cut"},
        {"long_texts": True},
    ):
        (name,) = wrong
        with pytest.raises(ConfigError, match=name):
            Engine(model, tokenizer, **wrong)
    model = upcycle(model, MoEConfig(layers_to_transform=(-1,)))
    for count in (2.0, True, "2", 0, 5):
        with pytest.raises(ConfigError, match="experts"):
            set_experts_per_token(model, count)


def test_settings_of_a_classifier_are_checked_when_it_is_made() -> None:
    with pytest.raises(ConfigError, match=r"epochs=2\.5"):
        SentimentClassifier(epochs=2.5)
    with pytest.raises(ConfigError, match="label_names is str 'good,bad', one string"):
        SentimentClassifier.zero_shot("no/such-model", "good,bad")


def test_1e_4_of_a_yaml_file_is_refused_with_the_way_to_write_it():
    """YAML 1.1 reads 1e-4 as text. Text is no number, and a folder may be named so."""
    with pytest.raises(ConfigError, match=r"learning_rate='1e-4'.*write 1\.0e-4"):
        TrainConfig.from_dict(yaml.safe_load("learning_rate: 1e-4"))
    assert TrainConfig.from_dict(yaml.safe_load("learning_rate: 1.0e-4")).learning_rate == 1e-4
    assert TrainConfig.from_dict(yaml.safe_load("model: 1e-4")).model == "1e-4"


def test_scikit_learn_copies_a_classifier_by_its_settings():
    classifier = SentimentClassifier(method="lora", method_settings={"r": 4}, learning_rate=1e-3)
    copied = clone(classifier)
    assert copied.config == classifier.config and copied.config.method_settings == {"r": 4}
    assert set(classifier.get_params()) == set(classifier.config.to_dict())
    assert copied.set_params(epochs=7, method="full", method_settings={}) is copied
    assert (copied.config.epochs, copied.config.method, classifier.config.epochs) == (7, "full", None)
    with pytest.raises(ConfigError, match="epochs=0"):
        copied.set_params(epochs=0)
    assert copied.get_params()["epochs"] == copied.config.epochs == 7
    copied.config = None  # as of a loaded one
    assert copied.get_params() == {}
    with pytest.raises(ConfigError, match="was loaded"):
        clone(copied)


def test_a_student_made_from_its_teacher_follows_it_closely():
    """The recipe of docs/how-to/faster.md is the default of `moe-split` with a teacher, and of nothing else."""
    names = ("distillation_weight", "distillation_token_dropout", "dropout", "distillation_hidden_weight")

    def recipe(**told):
        config = with_recipe(TrainConfig(**told))
        return tuple(getattr(config, name) for name in names)

    assert recipe(method="moe-split", teacher="t") == (1.0, 0.2, 0.0, 1.0)
    assert recipe(method="moe-split") == recipe() == recipe(method="full", teacher="t") == (0.5, 0.0, None, 0.0)
    assert recipe(method="moe-split", teacher="t", distillation_hidden_weight=0) == (1.0, 0.0, 0.0, 0.0)
    before = {"distillation_weight": 0.5, "distillation_token_dropout": 0.0, "dropout": None}  # as old runs hold them
    assert recipe(method="moe-split", teacher="t", **before) == (0.5, 0.0, None, 1.0)


def test_an_ffn_layout_is_read_back() -> None:
    layout = FFNLayout(replace="ffn", up="up", down="down", act="act")
    assert MoEConfig(ffn=dataclasses.asdict(layout)).ffn == layout
