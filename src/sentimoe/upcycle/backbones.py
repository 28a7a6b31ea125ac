"""Load a dense classifier on a pre-trained backbone, with mean pooling or with the architecture's own head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from sentimoe_ready import ready_models

from ..errors import ConfigError, NotSupportedError
from ..model_folder import load_config, load_model
from ..model_folder.loading import ENCODER_DECODER
from .configuration import HEADS
from .frozen import frozen_weights
from .head import logits_layer
from .labels import check_single_label
from .mean_head import backbone_class, without_pooler
from .modeling import SentiMoEForSequenceClassification
from .names import PACKAGED, backbone_path


def load_classifier(
    name: str,
    label_names: Sequence[str],
    *,
    head: str = "mean",
    head_dropout: float = 0.1,
    dtype: torch.dtype = torch.float32,
    load_in_4bit: bool = False,
    keep_layers: Sequence[int] = (),
    trust_remote_code: bool = False,
    verify: bool = True,
) -> PreTrainedModel:
    """A dense classifier with a fresh head (`mean`) or with the head of its architecture (`native`).

    name: a short name (`PACKAGED`, `HUB`), a folder or a hub id. label_names: C names, in index order.
    A folder that already is a classifier with these labels, in any order, keeps its head under `native`; so does one
    that never named its labels. load_in_4bit: the weights will be frozen, see `frozen_weights`; `keep_layers`, counted
    from either end, stay whole. trust_remote_code: run the Python code that the model brings along.
    verify: compare the folder with its manifest, where it has one.

    Raises ConfigError, NotSupportedError for an encoder-decoder, and ModelFolderError for a model that is damaged or
    not trusted.
    """
    if head not in HEADS:
        raise ConfigError(f"head={head!r} must be one of {HEADS}")
    path = backbone_path(name)
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(label_names)),
        "label2id": {label: i for i, label in enumerate(label_names)},
    }
    try:
        config = load_config(path, trust_remote_code=trust_remote_code, labelled=head == "native")
    except ConfigError as error:
        if name in ready_models():
            raise ConfigError(
                f"model={name!r} is a ready model, from which no training starts; copy it into a folder in Python and "
                f'give that, with head="native": SentimentClassifier.from_pretrained("{name}")'
                '.save_pretrained("FOLDER")'
            ) from error
        raise ConfigError(
            f"model {name!r} cannot be loaded; give one of {', '.join(PACKAGED)}, the folder of a model or the id of "
            "one that the hub or its cache has"
        ) from error
    how: dict[str, Any] = {"trust_remote_code": trust_remote_code, "verify": verify}
    if config.is_encoder_decoder:
        raise NotSupportedError(ENCODER_DECODER.format(name, config.model_type))
    weights: dict[str, Any] = {"dtype": dtype}
    if load_in_4bit:
        count = config.get_text_config().num_hidden_layers
        weights = frozen_weights([index % count for index in keep_layers])
    if head == "native":
        check_single_label(config, name)
        order = _label_order(name, config, label_names)
        model, found = load_model(AutoModelForSequenceClassification, path, **how, **weights, **labels)
        of_backbone = [key for key in found["missing_keys"] if key.startswith(f"{model.base_model_prefix}.")]
        _check_whole(name, [key for key in of_backbone if "pooler" not in key])  # a part of the head, and new as it is
        if order != sorted(order):
            _reorder(model, order)
        return model
    base = type(config)
    if base.model_type == "sentimoe":
        raise ConfigError(f"{name} is a sentimoe classifier already; to train it on, keep its head: --head native")
    body_class = backbone_class(base)
    body, found = load_model(body_class, path, **how, **weights, **without_pooler(body_class))
    _check_whole(name, found["missing_keys"])
    return with_mean_head(body, labels, head_dropout)


def _label_order(name: str, config: PreTrainedConfig, label_names: Sequence[str]) -> list[int]:
    """Where a stored classifier has each of these labels. Raises ConfigError when it has others."""
    stored, same = [config.id2label[index] for index in range(config.num_labels)], list(range(len(label_names)))
    trained = any("ForSequenceClassification" in kind for kind in config.architectures or ())
    unnamed = stored == [f"LABEL_{index}" for index in same]
    if not trained or unnamed:
        return same
    if sorted(stored) != sorted(label_names):
        raise ConfigError(
            f"{name} is a classifier of {stored}, the data has the labels {list(label_names)}; rename those of the "
            "data, or give head='mean' for a new head"
        )
    return [stored.index(label) for label in label_names]


def _reorder(model: PreTrainedModel, order: Sequence[int]) -> None:
    """Put the rows of the layer that answers in another order."""
    for parameter in logits_layer(model).parameters():
        parameter.data = parameter.data[list(order)]


def _check_whole(name: str, missing: Iterable[str]) -> None:
    if missing:
        raise ConfigError(f"{name} lacks weights of its backbone ({sorted(missing)[:3]}, ...): they would be random")


def with_mean_head(body: PreTrainedModel, labels: dict, head_dropout: float = 0.1) -> SentiMoEForSequenceClassification:
    """Put mean pooling, dropout and a fresh linear layer on a backbone."""
    settings = labels | {"problem_type": None}  # a head that went may have had another kind of answer
    return SentiMoEForSequenceClassification.around(body, "mean", head_dropout=head_dropout, **settings).eval()
