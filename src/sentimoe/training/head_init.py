"""A new head starts as logistic regression on frozen embeddings, not at random.

Fine-tuning then starts from the best linear classifier on what the backbone knows, so that its first steps do not
distort the backbone to suit a random head. Source: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and
Underperform Out-of-Distribution" (linear probing, then fine-tuning).
"""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..upcycle import logits_layer
from .distillation import NO_LABEL
from .embeddings import embeddings

MOST_TEXTS = 2048  # of more, a random part: reading them costs a third of training on them
INVERSE_STRENGTH = (
    1.0  # a sure head leaves the backbone nothing to learn: with the C of cross-validation, results were worse
)


def start_head(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, seed: int) -> None:
    """Put logistic regression into the layer that computes the logits, in place.

    rows: tokenised texts with `labels`. Where all that is read has one label, there is nothing to tell apart, and the
    layer stays as it is.
    """
    labels = np.asarray(rows["labels"])
    labelled = np.flatnonzero(labels != NO_LABEL)
    used = np.sort(np.random.default_rng(seed).permutation(labelled)[:MOST_TEXTS])
    if len(np.unique(labels[used])) < 2:
        return
    texts = rows.select(used)
    names = [name for name in tokenizer.model_input_names if name in texts.column_names]
    encodings = [{name: row[name] for name in names} for row in texts]
    regression, scale = fit_regression(embeddings(model, tokenizer, encodings), labels[used])
    weight, bias = linear_layer(regression, model.config.num_labels)
    with torch.no_grad():
        layer = logits_layer(model)
        layer.weight.copy_(torch.from_numpy(weight / scale))
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(bias))


def fit_regression(features: np.ndarray, labels: np.ndarray) -> tuple[LogisticRegression, float]:
    """Logistic regression on `features / scale`, whose mean length is 1. features: `[B, D]`, labels: `[B]`."""
    scale = float(np.linalg.norm(features, axis=1).mean()) or 1.0
    return LogisticRegression(C=INVERSE_STRENGTH, max_iter=2000).fit(features / scale, labels), scale


def linear_layer(regression: LogisticRegression, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Its weight `[C, D]` and bias `[C]`. A class without a text has the weight 0 and a bias that makes it rare."""
    rows, bias = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:  # one row, for the second class
        rows, bias = np.vstack([-rows, rows]) / 2, np.concatenate([-bias, bias]) / 2
    weight, biases = np.zeros((num_labels, rows.shape[1])), np.full(num_labels, bias.min() - 5.0)
    weight[regression.classes_], biases[regression.classes_] = rows, bias
    return weight, biases
