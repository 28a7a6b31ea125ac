"""Zero-shot: a language model scores each label word as the answer to a question about the text; nothing is trained.

Legend: B texts, L tokens of a prompt, C classes, M label words of more than one token, W tokens of the longest of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ..config import check_whole
from ..data import text_chunks, token_batches, values_of
from ..errors import ConfigError
from ..model_folder import load_model, load_tokenizer
from ..predictions import Predictions, check_finite, joined
from ..upcycle import backbone_path
from .prompts import Prompt

CONTENT_FREE = ("N/A", "[MASK]", "...")
TEXTS_PER_CHUNK = 1024


class ZeroShot:
    """Answers like an engine: texts in, class probabilities out, in input order; a blank text has a row of NaN.

    A text's tokens are put between the tokens of the prompt, so control tokens written in a text stay plain text.

    model, tokenizer: a causal language model. label_names: C words; a word may have several tokens.
    mode: how a text is answered.
        "calibrated": the likelihood of each word, divided by its mean likelihood for texts without content (contextual
        calibration, Zhao et al. 2021, equation 2 with W = diag(p_cf)^-1). "uncalibrated": the likelihood alone.
        "generate": greedy decoding, read strictly: an answer that is not exactly one of the words, after stripping
        white space, a closing full stop and capitals, is off-label: a row of NaN, counted.
    max_length: tokens of the text, the prompt not counted; the rest is cut.
    Raises ConfigError for an unknown mode.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        label_names: Sequence[str],
        prompt: Prompt | None = None,
        *,
        mode: str = "calibrated",
        max_length: int = 256,
        tokens_per_batch: int = 2048,
    ):
        if mode not in MODES:
            raise ConfigError(f"mode={mode!r} must be one of {tuple(MODES)}")
        check_whole("max_length", max_length, 1)
        check_whole("tokens_per_batch", tokens_per_batch, 1)
        label_names = list(values_of(label_names, "label_names"))
        self.model, self.tokenizer, self.mode, self.max_length = model.eval(), tokenizer, mode, max_length
        self.label_names, self.num_labels = label_names, len(label_names)
        self.tokens_per_batch = tokens_per_batch
        before, after = (prompt or Prompt()).around(tokenizer, label_names)
        self.before, self.after = self._ids(before), self._ids(after)
        start = "" if tokenizer.chat_template else " "
        self.words = [self._continuation(after, start + word) for word in label_names]
        self._content_free = self._content_free_scores() if mode == "calibrated" else np.zeros(self.num_labels)

    def predict_proba(self, texts: Iterable[Any]) -> np.ndarray:
        """Probabilities `[B, C]` float32."""
        return self.predict(texts).probabilities

    def predict(self, texts: Iterable[Any]) -> Predictions:
        """The same, with the texts that were cut and the answers that were no label."""
        return joined(self.stream(texts), self.num_labels)

    def stream(self, texts: Iterable[Any]) -> Iterator[Predictions]:
        """The same, chunk by chunk; rows count from the first text of all."""
        start = 0
        for chunk in text_chunks(texts, TEXTS_PER_CHUNK):
            probabilities = np.full((len(chunk), self.num_labels), np.nan, dtype=np.float32)
            tokens = [self._text_ids(text) if text.strip() else [] for text in chunk]
            readable = [row for row, ids in enumerate(tokens) if ids]
            prompts = [self._prompt(tokens[row]) for row in readable]
            off_label: Counter[str] = Counter()
            for batch in token_batches([len(ids) for ids in prompts], self.tokens_per_batch):
                rows = [readable[index] for index in batch]
                probabilities[rows], others = MODES[self.mode](self, [prompts[index] for index in batch])
                if self.mode != "generate":  # where NaN is an answer that is no label
                    check_finite(probabilities[rows], [start + row for row in rows])
                off_label.update(others)
            cut = [start + row for row in readable if len(tokens[row]) > self.max_length]
            yield Predictions(probabilities, cut, off_label)
            start += len(chunk)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _continuation(self, after: str, word: str) -> list[int]:
        """Tokens of a word where it stands as the answer."""
        prefix, whole = self._ids(after), self._ids(after + word)
        if whole[: len(prefix)] != prefix or len(whole) == len(prefix):
            raise ConfigError(
                f"the label {word.strip()!r} does not start a new token after the prompt in this model's vocabulary; "
                "give the label another name"
            )
        return whole[len(prefix) :]

    def _text_ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def _prompt(self, ids: list[int]) -> list[int]:
        """The tokens of the whole prompt around those of a text."""
        return self.before + ids[: self.max_length] + self.after

    def _padded(self, prompts: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask `[B, L]`, padded on the left, so that all prompts end in the last column."""
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        return ids.to(self.model.device), mask.to(self.model.device)

    @torch.inference_mode()
    def log_likelihoods(self, prompts: Sequence[list[int]]) -> np.ndarray:
        """ln p(word | prompt), summed over the tokens of the word: `[B, C]` float64.

        The prompts are read once; words of several tokens go on from the cached keys and values.
        """
        ids, mask = self._padded(prompts)
        several = [index for index, word in enumerate(self.words) if len(word) > 1]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        output = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=bool(several), logits_to_keep=1
        )
        first = torch.tensor([word[0] for word in self.words], device=ids.device)
        scores = output.logits[:, -1].float().log_softmax(-1)[:, first]
        if several:
            scores[:, several] += self._later_tokens(output.past_key_values, mask, several)
        return scores.double().cpu().numpy()

    def _later_tokens(self, cache: Any, mask: torch.Tensor, several: Sequence[int]) -> torch.Tensor:
        """ln p of the tokens after the first, for the words with the indices `several`: `[B, M]`."""
        size, words = len(mask), [self.words[index] for index in several]
        width = max(map(len, words)) - 1
        given = torch.zeros(len(words), width, dtype=torch.long)
        target, real = given.clone(), given.clone()
        for row, word in enumerate(words):
            length = len(word) - 1
            given[row, :length], target[row, :length], real[row, :length] = (
                torch.tensor(word[:-1]),
                torch.tensor(word[1:]),
                1,
            )
        given, target, real = (part.to(mask.device).repeat(size, 1) for part in (given, target, real))
        cache.batch_repeat_interleave(len(words))
        mask = torch.cat([mask.repeat_interleave(len(words), 0), real], dim=1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -width:]
        logits = self.model(
            input_ids=given, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).logits
        found = logits.float().log_softmax(-1).gather(-1, target[..., None])[..., 0]
        return (found * real).sum(-1).view(size, len(words))

    def _content_free_scores(self) -> np.ndarray:
        """ln of the mean likelihood of each word for texts without content: `[C]`."""
        scores = self.log_likelihoods([self._prompt(self._text_ids(text)) for text in CONTENT_FREE])
        return np.log(np.exp(_normalised(scores)).mean(axis=0))

    def _score(self, prompts: Sequence[list[int]]) -> tuple[np.ndarray, list[str]]:
        """Probabilities `[B, C]` from the likelihoods; nothing is off-label."""
        return np.exp(_normalised(self.log_likelihoods(prompts) - self._content_free)), []

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[list[int]]) -> tuple[np.ndarray, list[str]]:
        """Rows of 0 and 1 from greedy answers, NaN where the answer is off-label: `[B, C]`; and those answers."""
        ids, mask = self._padded(prompts)
        longest = max(map(len, self.words)) + 2  # room to go on after a label word, which is then no label
        output = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=longest,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id or 0,
        )
        rows, off_label = np.full((len(prompts), self.num_labels), np.nan), []
        for row, answer in enumerate(self.tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)):
            index = read_answer(answer, self.label_names)
            if index is None:
                off_label.append(answer.strip())
            else:
                rows[row] = np.eye(self.num_labels)[index]
        return rows, off_label


MODES = {"calibrated": ZeroShot._score, "uncalibrated": ZeroShot._score, "generate": ZeroShot._generate}


def read_answer(answer: str, label_names: Sequence[str]) -> int | None:
    """The label that an answer is, None when its first line is anything but a label (and a closing full stop)."""
    lines = answer.strip().splitlines()
    said = lines[0].strip().removesuffix(".").lower() if lines else ""
    return next((index for index, name in enumerate(label_names) if said == name.lower()), None)


def load_zero_shot(
    name: str,
    label_names: Sequence[str],
    *,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
    verify: bool = True,
    **settings: Any,
) -> ZeroShot:
    """Load a causal language model (a short name, a folder or a hub id) for zero-shot classification.

    trust_remote_code: run the Python code that it brings along. verify: compare a folder with its manifest.

    Raises ModelFolderError and ConfigError.
    """
    label_names = list(values_of(label_names, "label_names"))
    path = backbone_path(name)
    model, _ = load_model(AutoModelForCausalLM, path, dtype=dtype, trust_remote_code=trust_remote_code, verify=verify)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return ZeroShot(model, load_tokenizer(path, trust_remote_code=trust_remote_code), label_names, **settings)


def _normalised(scores: np.ndarray) -> np.ndarray:
    """Log-softmax over the classes."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
