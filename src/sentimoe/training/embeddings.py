"""Frozen embeddings: what a model without a trained head knows of a text already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data import token_batches
from ..upcycle import logits_layer


@torch.inference_mode()
def embeddings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encodings: Sequence[dict[str, list[int]]],
    tokens_per_batch: int = 8192,
) -> np.ndarray:
    """What the last linear layer of a classifier reads, `[B, D]` float32; under a mean head the mean hidden state.

    encodings: tokenised texts, lists of ids. Raises NotSupportedError where no linear layer computes the logits.
    """
    read: list[torch.Tensor] = []
    handle = logits_layer(model).register_forward_pre_hook(lambda layer, given: read.append(given[0]))
    training = model.training
    model.eval()
    found = np.empty((len(encodings), logits_layer(model).in_features), dtype=np.float32)
    lengths = [len(encoding["input_ids"]) for encoding in encodings]
    try:
        for batch in token_batches(lengths, tokens_per_batch):
            padded = tokenizer.pad([encodings[row] for row in batch], padding_side="right", return_tensors="pt")
            model(**padded.to(model.device))
            found[batch] = read.pop().float().cpu().numpy()
    finally:
        handle.remove()
        model.train(training)
    return found
