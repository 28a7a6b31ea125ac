"""Settings are of their type and in their range, or refused by name before anything is loaded.

Kind of fault: 4.5 experts, a batch of 2.5 texts, `class_weights: "no"` read as true, -5 as weight decay.
"""

import dataclasses
import typing
from pathlib import Path

import numpy as np
import pytest
from backbone import write_backbone
from transformers import AutoTokenizer

from sentimoe import MoEConfig, SentimentClassifier, load_classifier, upcycle
from sentimoe.config import FFNLayout
from sentimoe.data import dataset_from_texts
from sentimoe.errors import ConfigError
from sentimoe.inference import Engine
from sentimoe.methods import METHODS, check_settings
from sentimoe.training import TrainConfig, prepare
from sentimoe.upcycle import set_experts_per_token

WRONG = {
    int: [4.5, 4.0, True, "4", np.int64(4), [4], float("nan")],
    float: [True, "0.1", float("nan"), float("inf"), [0.1], 1j],
    bool: ["no", "false", 0, 1, 0.0],
    str: [5, Path("folder"), b"bytes", ["a", 1], True],
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
    assert MoEConfig(layers_to_transform=range(2)).layers_to_transform == (0, 1)
    assert TrainConfig(learning_rate=1, teacher=["a", "b"], distillation_weight=1).learning_rate == 1


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"seed": -1}, "0 or more"),
        ({"seed": 2**32}, "below 2"),
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
        ({"layers_to_transform": "-2,-1"}, "a list, each a whole number"),
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
    for method, told in METHODS.items():
        for name in told.settings:
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


def test_an_ffn_layout_is_read_back() -> None:
    layout = FFNLayout(replace="ffn", up="up", down="down", act="act")
    assert MoEConfig(ffn=dataclasses.asdict(layout)).ffn == layout
