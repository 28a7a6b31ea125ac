"""Texts one by one: their tokens, what each adds to the answer, and, of a model with experts, who read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..data import Split, clean_text
from ..evaluation import predicted_labels
from ..inference import Engine, check_offsets, in_precision, make_windows
from .attribution import attribute, has_captum
from .knockout import can_close, knock_out_each
from .representation import neighbours
from .trace import trace


def one_by_one(
    engine: Engine,
    model: Any,
    by_text: np.ndarray | None,
    part: Split,
    names: Sequence[str],
    probabilities: np.ndarray,
    shown: int,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Texts with the attribution of their tokens; with experts, who read each, each one knocked out, and neighbours.

    by_text: the mass of each text, `[B, N, E]`, by which neighbours are found; None for a dense model. shown: how many.
    """
    labels = np.asarray(part.labels)
    rows = choose(labels, probabilities, shown)
    texts = [clean_text(part.texts[row]) for row in rows]
    without = near = None
    if by_text is not None:
        near = neighbours(by_text, by_text[rows], count=20)
        if can_close(engine):
            without = knock_out_each(engine, texts, labels[rows])[0]
    tokens = _places(engine, texts) if by_text is None else _routed(engine, texts)
    exact = in_precision(model, torch.float32)
    found = []
    for place, (row, read) in enumerate(zip(rows, tokens, strict=True)):
        answer = int(np.argmax(probabilities[row]))
        told: dict[str, Any] = {
            "row": int(row),
            "text": texts[place],
            "label": names[labels[row]],
            "answer": names[answer],
            "probabilities": probabilities[row].tolist(),
            "tokens": read,
        }
        if near is not None:
            others = [n for n in near[place] if clean_text(part.texts[n]) != texts[place]][:3]
            told["near"] = [{"text": clean_text(part.texts[n]), "label": names[labels[n]]} for n in others]
        if without is not None:
            change = without[:, :, place] - probabilities[row]
            told["knock_out"] = change.tolist()
            told["flips"] = (without[:, :, place].argmax(axis=-1) != answer).tolist()
        if has_captum():
            scores = attribute(engine, exact, texts[place], answer)
            told |= {"gap": scores["gap"], "disputed": scores["disputed"]}
            for token, score in zip(read, scores["tokens"], strict=True):
                token["score"] = score["score"]
        found.append(told)
        progress(f"text {place + 1} of {len(rows)}")
    return found


def choose(labels: np.ndarray, probabilities: np.ndarray, count: int) -> np.ndarray:
    """Rows to show: a third the most confident errors, a third the least certain answers, the rest at random."""
    able = np.flatnonzero(~np.isnan(probabilities).any(axis=1))
    predicted = predicted_labels(probabilities)
    top = np.sort(np.nan_to_num(probabilities), axis=1)
    wrong = able[predicted[able] != labels[able]]
    errors = wrong[np.argsort(-top[wrong, -1], kind="stable")][: count // 3]
    unsure = able[np.argsort(top[able, -1] - top[able, -2], kind="stable")]
    unsure = unsure[~np.isin(unsure, errors)][: count // 3]
    rest = np.random.default_rng(0).permutation(able)
    rest = rest[~np.isin(rest, np.concatenate([errors, unsure]))][: max(0, count - len(errors) - len(unsure))]
    return np.concatenate([errors, unsure, rest]).astype(int)


def _routed(engine: Engine, texts: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """For each text its tokens: characters, and per layer the experts that read it."""
    for each in trace(engine, texts):
        for row in range(len(each.texts)):
            tokens = np.flatnonzero(each.text == each.first + row)
            yield [
                {
                    "start": int(each.start[token]),
                    "end": int(each.end[token]),
                    "experts": each.experts[token].tolist(),
                    "weights": np.round(each.weights[token], 3).tolist(),
                }
                for token in tokens
            ]


def _places(engine: Engine, texts: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """For each text its tokens: characters. Raises ConfigError when the tokenizer cannot say where they came from."""
    check_offsets(engine.tokenizer)
    encodings: Any = make_windows(texts, engine.tokenizer, engine.max_length, "truncate", offsets=True).encodings
    for encoded in encodings:
        yield [{"start": start, "end": end} for start, end in encoded["offset_mapping"]]
