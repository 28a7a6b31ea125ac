"""The engine: texts in, class probabilities out, in input order and constant memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from ..config import check_whole
from ..data import text_chunks, token_batches
from ..errors import ConfigError
from ..model_folder import check_vocabulary
from ..predictions import Predictions, check_finite, joined
from ..upcycle import check_single_label, reads_last_token
from .ahead import prepared_ahead
from .conversion import compiled
from .exits import Answers, StagedClassifier, softmax
from .lengths import position_limit, window_length
from .openvino import OpenVINOClassifier, padded_width
from .precision import compute_dtype, in_precision
from .routed import RoutedClassifier
from .windows import Windows, check_long_texts, make_windows

TEXTS_PER_CHUNK = 4096


class Engine:
    """Runs a classifier over any number of texts.

    model: it is not changed. Where it is in evaluation mode and in the compute precision already it is used itself, so
        leave it in that mode; else a copy is.
    max_length: tokens per window, special tokens included (default: the tokenizer's `model_max_length`, or what the
        model can read where that is less).
    long_texts: "windows" (probabilities averaged by window length) or "truncate".
    tokens_per_batch: padded tokens in one batch; texts are sorted by length inside a chunk of 4,096 texts.
    precision: "auto" (bfloat16 where the processor has it), "bfloat16" or "float32".
    backend: "torch", or "openvino" on a processor; a model loaded from an exported folder is OpenVINO's already.

    Threads may share one: nothing of a call is kept in it.
    Raises ConfigError for an unknown setting, a length that the model cannot read, a tokenizer without a padding token,
    or a model that does not give each text one of two or more labels, ModelFolderError for a tokenizer with tokens that
    the model has no embedding for, and ConversionError where OpenVINO would answer differently.
    """

    def __init__(
        self,
        model: PreTrainedModel | OpenVINOClassifier | StagedClassifier | RoutedClassifier,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int | None = None,
        long_texts: str = "windows",
        tokens_per_batch: int = 8192,
        precision: str = "auto",
        backend: str = "torch",
    ):
        check_single_label(model.config, getattr(model.config, "name_or_path", "") or "the model")
        dtype = compute_dtype(precision, model.device)
        check_long_texts(long_texts)
        check_whole("tokens_per_batch", tokens_per_batch, 1)
        if tokenizer.pad_token is None:
            raise ConfigError("the tokenizer has no padding token; set tokenizer.pad_token, to eos_token for example")
        if isinstance(model, RoutedClassifier) and backend != "torch":
            raise ConfigError(f"backend={backend!r}: a model with added domains runs on torch alone; leave it out")
        if not (ready := isinstance(model, OpenVINOClassifier | StagedClassifier | RoutedClassifier)):
            check_vocabulary(tokenizer, model, getattr(tokenizer, "name_or_path", "") or "this model")
            check_padding(tokenizer, model)
        self.tokenizer = tokenizer
        self.max_length = window_length(max_length, tokenizer, model.max_length if ready else position_limit(model))
        self.model: Any = model if ready else BACKENDS[_known(backend)](model, dtype, self.max_length)
        self.long_texts = long_texts
        self.tokens_per_batch = tokens_per_batch
        self.num_labels = model.config.num_labels
        self.label_names = [model.config.id2label[index] for index in range(self.num_labels)]

    def with_model(self, model: Any) -> Engine:
        """The same tokenizer and settings around another model that is ready to run, such as one with domains."""
        other = copy.copy(self)
        other.model, other.num_labels = model, model.config.num_labels
        other.label_names = [model.config.id2label[index] for index in range(model.config.num_labels)]
        return other

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
        """The same, chunk by chunk, for inputs that do not fit in memory; rows count from the first text of all.

        The next chunk is read before this one is answered, and tokenised meanwhile. Over millions of texts memory
        grows: each size of a batch leaves holes. A call of `return_freed_memory` now and then gives them back.
        """
        start = 0
        for chunk, windows in prepared_ahead(text_chunks(texts, TEXTS_PER_CHUNK), self.windows):
            found = self.answers(windows)
            probabilities = windows.averaged(softmax(found.logits), len(chunk))
            answered = sorted(set(windows.owner))
            check_finite(probabilities[answered], [start + row for row in answered])
            read = None if found.layers is None else windows.most(found.layers, len(chunk))
            told: dict[str, Any] = {"layers": read}
            if found.domains is not None and found.domain_scores is not None:
                told["domains"] = windows.most(found.domains + 1, len(chunk)) - 1
                told["domain_scores"] = windows.averaged(found.domain_scores[:, None], len(chunk))[:, 0]
            yield Predictions(probabilities, [start + row for row in windows.truncated], **told)
            start += len(chunk)

    def windows(self, texts: Sequence[str], long_texts: str | None = None) -> Windows:
        """Cleaned texts, tokenised. long_texts: in another way than the engine's."""
        return make_windows(texts, self.tokenizer, self.max_length, long_texts or self.long_texts)

    def window_probabilities(self, windows: Windows) -> np.ndarray:
        """What each window is answered, `[W, C]` float32."""
        return softmax(self.logits(windows)[0])

    def answers_at(self, texts: Sequence[Any]) -> Callable[[float], np.ndarray]:
        """Temperature -> probabilities `[B, C]` of the texts, which the model reads once, now."""
        rows = [text for chunk in text_chunks(texts, TEXTS_PER_CHUNK) for text in chunk]
        windows = self.windows(rows)
        logits, _ = self.logits(windows)
        return lambda temperature: windows.averaged(softmax(logits / temperature), len(rows))

    def logits(self, windows: Windows) -> tuple[np.ndarray, np.ndarray | None]:
        """The logits `[W, C]` of each window, and how many layers read it `[W]`, where texts leave early."""
        found = self.answers(windows)
        return found.logits, found.layers

    def answers(self, windows: Windows) -> Answers:
        """The logits of each window and, where the model decides it for each text, which part of it answered."""
        if isinstance(self.model, StagedClassifier):
            return self.model.answer([encoding["input_ids"] for encoding in windows.encodings], self.tokens_per_batch)
        lengths = [len(ids["input_ids"]) for ids in windows.encodings]
        if isinstance(self.model, RoutedClassifier):
            return self.model.answer(
                lambda rows: self.batch([windows.encodings[row] for row in rows]),
                lengths,
                windows.owner,
                self.tokens_per_batch,
            )
        logits = np.empty((len(windows.encodings), self.num_labels), dtype=np.float32)
        for batch in token_batches(lengths, self.tokens_per_batch):
            logits[batch] = self._forward([windows.encodings[index] for index in batch])
        return Answers(logits)

    @torch.inference_mode()
    def _forward(self, encodings: Sequence[dict[str, list[int]]]) -> np.ndarray:
        return self.model(**self.batch(encodings)).logits.float().cpu().numpy()

    def batch(self, encodings: Sequence[dict[str, list[int]]]) -> BatchEncoding:
        """Tokenised texts as the model's padded input."""
        how: dict[str, Any] = {}
        if isinstance(self.model, OpenVINOClassifier):
            longest = max(len(each["input_ids"]) for each in encodings)
            how = {"padding": "max_length", "max_length": padded_width(longest, len(encodings), self.max_length)}
        # on the right whatever the tokenizer says: absolute positions such as GPT-2's count from the left
        padded = self.tokenizer.pad(list(encodings), padding_side="right", return_tensors="pt", **how)
        return padded.to(self.model.device)


def check_padding(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Raises ConfigError where a head that answers at the last token would take padding for text."""
    padding = model.config.get_text_config().pad_token_id
    if reads_last_token(model) and padding != tokenizer.pad_token_id:
        raise ConfigError(
            f"the model's head answers at the last token that is no padding, which has the id {padding} in its config "
            f"and {tokenizer.pad_token_id} in the tokenizer; set config.pad_token_id = {tokenizer.pad_token_id}"
        )


def _known(backend: str) -> str:
    if backend not in BACKENDS:
        raise ConfigError(f"backend={backend!r} must be one of {tuple(BACKENDS)}")
    return backend


BACKENDS: dict[str, Callable[[PreTrainedModel, torch.dtype, int], Any]] = {
    "torch": lambda model, dtype, max_length: in_precision(model, dtype),
    "openvino": compiled,
}
