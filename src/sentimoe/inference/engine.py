"""The engine: texts in, class probabilities out, in input order and constant memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from ..config import check_whole
from ..data import text_chunks, token_batches
from ..errors import ConfigError
from ..predictions import Predictions, check_finite, joined
from ..upcycle import check_single_label
from .openvino import OpenVINOClassifier, compiled
from .precision import compute_dtype
from .windows import Windows, check_long_texts, make_windows

TEXTS_PER_CHUNK = 4096
LONGEST = 10_000_000  # transformers writes 1e30 where it knows no length


class Engine:
    """Runs a classifier over any number of texts.

    model: it is not changed. Where it is in evaluation mode and in the compute precision already it is used itself, so
        leave it in that mode; else a copy is.
    max_length: tokens per window, special tokens included (default: the tokenizer's `model_max_length`, of a tokenizer
        that has none what the model can read).
    long_texts: "windows" (probabilities averaged by window length) or "truncate".
    tokens_per_batch: padded tokens in one batch; texts are sorted by length inside a chunk of 4,096 texts.
    precision: "auto" (bfloat16 where the processor has it), "bfloat16" or "float32".
    backend: "torch", or "openvino" on a processor; a model loaded from an exported folder is OpenVINO's already.

    Threads may share one: nothing of a call is kept in it.
    Raises ConfigError for an unknown setting, a tokenizer without a padding token or a length, or a model that does not
    give each text one of two or more labels.
    """

    def __init__(
        self,
        model: PreTrainedModel | OpenVINOClassifier,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int | None = None,
        long_texts: str = "windows",
        tokens_per_batch: int = 8192,
        precision: str = "auto",
        backend: str = "torch",
    ):
        dtype = compute_dtype(precision, model.device)
        check_long_texts(long_texts)
        check_whole("tokens_per_batch", tokens_per_batch, 1)
        if max_length is not None:
            check_whole("max_length", max_length, tokenizer.num_special_tokens_to_add() + 1)
        self.model: Any = model if isinstance(model, OpenVINOClassifier) else BACKENDS[_known(backend)](model, dtype)
        if tokenizer.pad_token is None:
            raise ConfigError("the tokenizer has no padding token; set tokenizer.pad_token, to eos_token for example")
        self.tokenizer = tokenizer
        self.max_length = max_length or _length(tokenizer, model)
        self.long_texts = long_texts
        self.tokens_per_batch = tokens_per_batch
        check_single_label(model.config, getattr(model.config, "_name_or_path", "") or "the model")
        self.num_labels = model.config.num_labels
        self.label_names = [model.config.id2label[index] for index in range(self.num_labels)]

    def predict_proba(self, texts: Iterable[Any]) -> np.ndarray:
        """Probabilities `[B, C]` float32, a row for every text; blank: a row of NaN.

        Nothing raises for odd text; ConfigError for what is no column of texts, DataError for a value that is no text,
        PredictionError for an answer that is not finite.
        """
        return self.predict(texts).probabilities

    def predict(self, texts: Iterable[Any]) -> Predictions:
        """The same, and which texts were cut."""
        return joined(self.stream(texts), self.num_labels)

    def stream(self, texts: Iterable[Any]) -> Iterator[Predictions]:
        """The same, chunk by chunk, for inputs that do not fit in memory; rows count from the first text of all."""
        start = 0
        for chunk in text_chunks(texts, TEXTS_PER_CHUNK):
            windows = make_windows(chunk, self.tokenizer, self.max_length, self.long_texts)
            probabilities = self._chunk(len(chunk), windows)
            asked = sorted(set(windows.owner))
            check_finite(probabilities[asked], [start + row for row in asked])
            yield Predictions(probabilities, [start + row for row in windows.truncated])
            start += len(chunk)

    def _chunk(self, num_texts: int, windows: Windows) -> np.ndarray:
        lengths = np.array([len(ids["input_ids"]) for ids in windows.encodings])
        total = np.zeros((num_texts, self.num_labels))
        weight = np.zeros((num_texts, 1))
        owner = np.array(windows.owner, dtype=int)
        for batch in token_batches(lengths.tolist(), self.tokens_per_batch):
            probabilities = self._forward([windows.encodings[index] for index in batch])
            np.add.at(total, owner[batch], probabilities * lengths[batch, None])
            np.add.at(weight, owner[batch], lengths[batch, None])
        weight[weight == 0] = np.nan
        return (total / weight).astype(np.float32)

    @torch.inference_mode()
    def _forward(self, encodings: Sequence[dict[str, list[int]]]) -> np.ndarray:
        return self.model(**self.batch(encodings)).logits.float().softmax(dim=-1).cpu().numpy()

    def batch(self, encodings: Sequence[dict[str, list[int]]]) -> BatchEncoding:
        """Tokenised texts as the model's padded input."""
        # on the right whatever the tokenizer says: absolute positions such as GPT-2's count from the left
        padded = self.tokenizer.pad(list(encodings), padding_side="right", return_tensors="pt")
        return padded.to(self.model.device)


def position_limit(model: PreTrainedModel) -> int | None:
    """Tokens that learned position embeddings cover, else what the config says; None where there is no limit."""
    stated = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and "position" in name and module.num_embeddings == stated:
            # RoBERTa and MPNet number positions from the padding index + 1
            return stated if module.padding_idx is None else stated - module.padding_idx - 1
    return stated


def _length(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | OpenVINOClassifier) -> int:
    limit = None if isinstance(model, OpenVINOClassifier) else position_limit(model)
    if tokenizer.model_max_length <= LONGEST:
        return tokenizer.model_max_length if limit is None else min(tokenizer.model_max_length, limit)
    if limit is None:
        raise ConfigError(
            "neither tokenizer nor model says how many tokens it reads; set the tokenizer's model_max_length, or give "
            "max_length"
        )
    return limit


def _known(backend: str) -> str:
    if backend not in BACKENDS:
        raise ConfigError(f"backend={backend!r} must be one of {tuple(BACKENDS)}")
    return backend


def in_precision(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model for evaluation in this precision: itself, or a copy where something has to change.

    Buffers such as rotary frequencies keep theirs, and so do weights packed into 4 bits.
    """
    if not model.training and all(p.dtype == dtype for p in model.parameters() if p.is_floating_point()):
        return model
    fast = copy.deepcopy(model).eval()
    for parameter in fast.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return fast


BACKENDS: dict[str, Callable[[PreTrainedModel, torch.dtype], Any]] = {"torch": in_precision, "openvino": compiled}
