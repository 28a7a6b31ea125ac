"""The top of a domain: trained, and as sure as it is right."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedModel

from ..data import SentimentDataset
from ..errors import DataError
from ..evaluation import calibration
from ..inference import Engine, RoutedClassifier
from ..inference.routed import Domain, put
from ..inference.segments import Segment
from ..upcycle import logits_layer
from ..upcycle.labels import label_type
from .fitting import Examples, train_top
from .router import Fitted
from .states import Read

logger = logging.getLogger(__name__)


def with_labels_of(dataset: SentimentDataset, model: PreTrainedModel) -> SentimentDataset:
    """The data with the labels of the model where it knows them all, so that its head goes on."""
    own = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if not set(dataset.label_names) <= set(own):
        return dataset
    return replace(dataset.with_labels_of(own), label_type=label_type(model.config))


def trained_domain(
    model: PreTrainedModel,
    name: str,
    dataset: SentimentDataset,
    read: dict[str, Read],
    cut: int,
    fitted: Fitted,
    *,
    kind: str,
    epochs: int | None,
    rate: float,
    seed: int,
    dtype: torch.dtype,
) -> Domain:
    """Train the top of a domain. read: training and validation texts after the trunk. fitted: its router."""
    top = Segment(model, cut, model.config.get_text_config().num_hidden_layers)
    own = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if list(dataset.label_names) != own:
        _new_head(top.model, len(dataset.label_names))
    examples = {
        split: Examples(each.states, [dataset.splits[split].labels[row] for row in each.rows])
        for split, each in read.items()
    }
    updates = train_top(
        top, kind, examples["train"], examples["validation"], epochs=epochs, rate=rate, seed=seed, dtype=dtype
    )  # fmt: skip
    return Domain(
        name, list(dataset.label_names), dataset.label_type, cut, fitted.weight, fitted.bias,
        {key: each.cpu() for key, each in updates.items()},
    )  # fmt: skip


def _new_head(model: PreTrainedModel, num_labels: int) -> None:
    """Another number of labels, all of them equally likely at first."""
    name, linear = _last_linear(model)
    put(model, f"{name}.weight", nn.Parameter(torch.zeros(num_labels, linear.in_features, device=model.device)))
    if linear.bias is not None:
        put(model, f"{name}.bias", nn.Parameter(torch.zeros(num_labels, device=model.device)))
    linear.out_features = num_labels


def calibrated(
    domain: Domain, model: PreTrainedModel, engine: Engine, dataset: SentimentDataset, dtype: torch.dtype
) -> tuple[Domain, float | None]:
    """The domain with its logits divided by the temperature under which its labels are likeliest, and that.

    It stays as it is, and the temperature is None, where validation has too few texts.
    """
    validation = dataset.splits["validation"]
    alone = engine.with_model(RoutedClassifier(model, [domain], dtype, fixed=domain.name))
    name, _ = _last_linear(model)
    try:
        temperature = float(calibration(alone.answers_at(validation.texts), validation.labels)["temperature"])
    except DataError as error:
        logger.warning("the domain is not calibrated: %s", error)
        return domain, None
    updates = {key: each / temperature if key.startswith(f"{name}.") else each for key, each in domain.updates.items()}
    return replace(domain, updates=updates), temperature


def _last_linear(model: PreTrainedModel) -> tuple[str, nn.Linear]:
    """The layer that computes the logits, and its name."""
    linear = logits_layer(model)
    return next(name for name, module in model.named_modules() if module is linear), linear
