"""What the config of a classifier says of its labels: each text gets one; of which kind they are."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError

OTHER = ("multi_label_classification", "regression")


def check_single_label(config: Any, name: str) -> None:
    """Raises ConfigError for a classifier of several labels a text or of numbers: softmax makes no sense of its logits.

    config: of a model, or of an exported one. name: of the model, for the message.
    """
    kind = getattr(config, "problem_type", None)
    if kind in OTHER or config.num_labels < 2:
        given = f"problem_type={kind!r}" if kind in OTHER else f"num_labels={config.num_labels}"
        raise ConfigError(
            f"{name} has {given} in its config.json; sentimoe trains and reads classifiers that give each text one of "
            "two or more labels. To train one on its backbone, give head='mean', which has a head of its own"
        )


def label_type(config: Any) -> str:
    """ "int" where the model was trained on integer labels that have no other names, else "str"."""
    return getattr(config, "label_type", "str")


def carry(config: Any, to: Any) -> None:
    """Tell another config what this one says of its labels."""
    for name in ("label_type", "ordinal"):
        if hasattr(config, name):
            setattr(to, name, getattr(config, name))


def is_ordinal(config: Any) -> bool:
    """Whether the labels go from lowest to highest: integers, unless it says otherwise."""
    return getattr(config, "ordinal", label_type(config) == "int")
