"""One way of running a model faster: where it is cut, in which precision, and the heads taught on its own states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..inference import StagedClassifier, Windows, compute_dtype, exportable, softmax
from ..inference.exits import Network, batches
from ..inference.quantising import calibration_batches, quantised
from ..inference.segment_networks import network_of, reread, traced
from ..inference.segments import segments
from ..upcycle import is_ordinal, label_type
from .heads import taught_head
from .thresholds import NEVER, leaves_after

TOKENS_PER_BATCH = 8192
MOST_BYTES = 1_500_000_000  # of hidden states that heads are taught on, in 16 bits


@dataclass(frozen=True)
class Lever:
    """What a variant does to the model. cuts: numbers of layers after which texts may leave. int8: 8-bit networks."""

    cuts: tuple[int, ...]
    int8: bool

    def __str__(self) -> str:
        where = f"exits after {', '.join(map(str, self.cuts))} layers" if self.cuts else "no exits"
        return f"{'int8' if self.int8 else 'bfloat16'}, {where}"


@dataclass(frozen=True)
class Variant:
    """A lever made real. networks: what is saved, one for each segment."""

    lever: Lever
    networks: list[Any]
    classifier: StagedClassifier

    def answers(self, windows: Windows) -> np.ndarray:
        """What the head after each segment answers, `[S, W, C]` probabilities: nobody leaves."""
        return softmax(self.classifier.answers_after_all(ids_of(windows), TOKENS_PER_BATCH))


def ids_of(windows: Windows) -> list[list[int]]:
    """The token ids of each window."""
    return [encoding["input_ids"] for encoding in windows.encodings]


def build(
    model: PreTrainedModel,
    lever: Lever,
    windows: Windows,
    reference: np.ndarray,
    *,
    padding: int,
    max_length: int,
    seed: int,
    progress: Callable[[str], None],
) -> Variant:
    """Cut, convert, quantise, and teach the heads.

    windows: of the texts to learn from. reference: what the whole model answers to each window, `[W, C]`. padding: the
    token that fills up. Raises ConversionError where the model cannot be cut, and ConfigError where a package lacks.
    """
    hidden_size = model.config.get_text_config().hidden_size
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    parts = segments(exportable(model), lever.cuts)
    networks = [traced(part, hidden_size, max_length) for part in parts]
    dtype = compute_dtype("auto", torch.device("cpu"))
    if lever.int8:
        progress(f"{lever}: quantising")
        given = calibration_batches(ids_of(windows), padding, seed)
        for index, network in enumerate(networks):
            following = [(network_of(network, torch.float32)(*batch)[0], batch[1]) for batch in given]
            networks[index] = reread(quantised(network, given))
            given = following
    progress(f"{lever}: teaching the heads")
    count = model.config.get_text_config().num_hidden_layers
    about: dict[str, Any] = {
        "layers": [*lever.cuts, count],
        "padding": padding,
        "labels": labels,
        "label_type": label_type(model.config),
        "ordinal": is_ordinal(model.config),
        "max_length": max_length,
    }
    compiled = [network_of(network, dtype) for network in networks]
    chosen = _learnt_from(ids_of(windows), hidden_size, seed)
    states: list[Any] = [ids_of(windows)[row] for row in chosen]
    heads = []
    for network in compiled:
        states, own = _states(network, states, padding)
        heads.append(taught_head(states, reference[chosen], own, seed))
    return Variant(lever, networks, StagedClassifier(compiled, heads, (NEVER,) * len(lever.cuts), **about))


def _learnt_from(ids: Sequence[list[int]], hidden_size: int, seed: int) -> list[int]:
    """Places of texts at random, as many as have room: their states after a segment are kept."""
    order = np.random.default_rng(seed).permutation(len(ids))
    room = np.cumsum([2 * hidden_size * len(ids[row]) for row in order]) <= MOST_BYTES
    return sorted(order[room].tolist())


def _states(network: Network, texts: Sequence[Any], padding: int) -> tuple[list[np.ndarray], np.ndarray | None]:
    """The states of each text after a segment, `[L, D]`, and after the last one the logits `[W, C]`.

    In 16 bits, but for batches with values that 16 bits cannot hold.
    """
    states: list[Any] = [None] * len(texts)
    logits: dict[int, np.ndarray] = {}
    for rows, given, mask in batches(texts, padding, TOKENS_PER_BATCH):
        hidden, own = network(given, mask)
        fits = np.abs(hidden).max() <= np.finfo(np.float16).max
        for place, row in enumerate(rows):
            states[row] = hidden[place, : len(texts[row])].astype(np.float16 if fits else np.float32)
            if own is not None:
                logits[row] = own[place]
    return states, np.stack([logits[row] for row in range(len(texts))]) if logits else None


def averaged(answers: np.ndarray, thresholds: Sequence[float], windows: Windows, num_texts: int) -> np.ndarray:
    """What texts are answered under these thresholds, `[B, C]`, from the answers of all segments `[S, W, C]`."""
    stage = leaves_after(answers.max(axis=2), thresholds)
    return windows.averaged(answers[stage, np.arange(len(stage))], num_texts)
