"""Everything that a report says, as one JSON-able object: measured here, drawn in `report`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data import SentimentDataset, Split, clean_text
from ..errors import ConfigError
from ..evaluation import classification_metrics, predicted_labels, reliability_bins
from ..inference import Engine, in_precision
from ..upcycle import layer_numbers, moe_layers
from .activation import Activation, by_class, entropy, shares, top_texts, top_tokens
from .attribution import attribute, has_captum
from .controls import controls
from .information import class_preferences, information_with_baseline
from .knockout import can_close, knock_out_each
from .mistakes import mistakes
from .representation import expert_similarity, neighbours, pooled, project, separation, written
from .sizes import FULL, Sizes
from .trace import Trace, trace, write_trace
from .words import LEXICON, PARTS, has_tagger

Progress = Callable[[str], None]


def find(
    engine: Engine,
    model: Any,
    dataset: SentimentDataset,
    split: str,
    *,
    trace_path: Path | None = None,
    dense: Engine | None = None,
    sizes: Sizes = FULL,
    name: str = "",
    progress: Progress = lambda line: None,
    passed: Callable[[Iterator[Trace]], Iterator[Trace]] = lambda traces: traces,
) -> dict[str, Any]:
    """Measure everything on one split.

    engine: of a model with experts, on torch. model: the same model, from which attribution makes a float32 one.
    trace_path: a Parquet file for the whole routing trace. dense: the dense model, to compare with. name: of the model,
    for people. passed: sees every trace go by, for a progress bar. Raises ConfigError for a dense model.
    """
    if not moe_layers(engine.model):
        raise ConfigError("the model has no experts, so there is nothing to explain; train one with moe-gated")
    # a name of a folder or label that is no valid text could not be written down
    names = [clean_text(name) for name in dataset.label_names]
    dataset = replace(dataset, name=clean_text(dataset.name), label_names=tuple(names))
    part = dataset.splits[split]
    labels = np.asarray(part.labels)
    progress(f"tracing {len(part)} texts")
    tagged = np.random.default_rng(0).permutation(len(part))[: sizes.tagged] if has_tagger() else ()
    activation = _activation(engine, tagged)
    traces = passed(trace(engine, part.texts))
    answers, truncated = [], 0
    for each in write_trace(traces, trace_path) if trace_path else traces:
        activation.add(each)
        answers.append(each.probabilities)
        truncated += each.truncated
    probabilities = np.concatenate(answers)
    found: dict[str, Any] = {
        "data": {"name": dataset.name, "split": split, "texts": len(part), "labels": names, "sha256": dataset.sha256},
        "model": _described(engine, name),
        "scores": classification_metrics(labels, probabilities, names),
        "sizes": {key: min(value, len(part)) for key, value in vars(sizes).items()},
        "truncated": {"texts": truncated, "tokens": engine.max_length},
        "tagger": has_tagger(),
        "captum": has_captum(),
    }
    found["sizes"] |= {"permutations": sizes.permutations, "routers": sizes.routers}
    progress("counting")
    found |= _routing(activation, engine, labels, len(names), part.texts, sizes)
    _, sample = _sample(part, sizes.compared)
    progress("comparing the experts")
    found["similarity"] = expert_similarity(engine, sample.texts).tolist()
    progress("taking the experts away")
    _, some = _sample(part, sizes.answered)
    found["controls"] = controls(engine, some.texts, some.labels, sizes.routers, dense)
    progress("projecting")
    found["clusters"] = _clusters(engine, dense, part, activation, sizes)
    found["knock_out"] = found["flipped_by_some_expert"] = None
    if can_close(engine):
        progress("knocking out each expert")
        rows, some = _sample(part, sizes.knocked_out)
        without, found["knock_out"] = knock_out_each(engine, some.texts, np.asarray(some.labels), progress)
        whole = predicted_labels(probabilities[rows])
        labelled = [predicted_labels(probabilities) for layer in without for probabilities in layer]
        found["flipped_by_some_expert"] = float((np.stack(labelled) != whole).any(axis=0).mean())
    found["reliability"] = reliability_bins(labels, probabilities, n_bins=10)
    counts, found["mistakes"] = mistakes([clean_text(text) for text in part.texts], labels, probabilities, names)
    found |= counts
    progress(f"explaining {min(sizes.shown, len(part))} texts one by one")
    found["texts"] = _texts(engine, model, activation.by_text, part, names, probabilities, sizes, progress)
    return found


def without_texts(findings: dict[str, Any]) -> dict[str, Any]:
    """The measures alone, with no text of the data in them, to be kept with results."""
    kept = {key: value for key, value in findings.items() if key not in ("texts", "mistakes")}
    kept["experts"] = [{key: row[key] for key in row if key != "texts"} for row in findings["experts"]]
    shown = findings["texts"]
    kept["shown"] = {
        "texts": len(shown),
        "median_gap": float(np.median([text["gap"] for text in shown])) if findings["captum"] and shown else None,
    }
    return kept


def _activation(engine: Engine, tagged: Iterable[int]) -> Activation:
    layers = moe_layers(engine.model)
    vocabulary = max(len(engine.tokenizer), engine.model.config.get_text_config().vocab_size)
    return Activation(len(layers), layers[0].experts.num_experts, vocabulary, tagged)


def _described(engine: Engine, name: str) -> dict[str, Any]:
    layers = moe_layers(engine.model)
    return {
        "name": clean_text(name) or engine.model.config.base_config.model_type,
        "layers": layer_numbers(engine.model),
        "experts": layers[0].experts.num_experts,
        "experts_per_token": layers[0].num_experts_per_tok,
    }


def _sample(part: Split, count: int) -> tuple[np.ndarray, Split]:
    """That many texts that are not blank, at random: their rows and the texts."""
    able = np.array([row for row, text in enumerate(part.texts) if clean_text(text).strip()], dtype=int)
    rows = able[np.sort(np.random.default_rng(0).permutation(len(able))[:count])]
    return rows, Split([part.texts[row] for row in rows], [part.labels[row] for row in rows])


def _routing(
    activation: Activation, engine: Engine, labels: np.ndarray, classes: int, texts: Sequence[str], sizes: Sizes
) -> dict[str, Any]:
    """Heat maps, load, the tokens and texts of each expert, and what tells specialisation from chance."""
    load = activation.by_token.sum(axis=0)
    load = load / load.sum(axis=-1, keepdims=True)
    words = engine.tokenizer.convert_ids_to_tokens(range(len(engine.tokenizer)))
    words += [""] * (len(activation.tokens) - len(words))
    numbers = layer_numbers(engine.model)
    information = information_with_baseline(activation.by_text, labels, classes, sizes.permutations)
    information = [row | {"layer": layer} for row, layer in zip(information, numbers, strict=True)]
    preferences = class_preferences(activation.by_text, labels, classes, sizes.permutations)
    experts = []
    for layer, expert in product(*map(range, load.shape)):
        answered = top_texts(activation, layer, expert)
        experts.append(
            {
                "layer": numbers[layer],
                "expert": expert,
                "load": float(load[layer, expert]),
                "tokens": top_tokens(activation, words, layer, expert),
                "texts": [row | {"text": clean_text(texts[row["row"]])} for row in answered],
            }
        )
    return {
        "load": load.tolist(),
        "entropy": entropy(load).tolist(),
        "by_class": _plain(shares(by_class(activation.by_text, labels, classes))),
        "class_p": preferences.tolist(),
        "by_lexicon": {"names": LEXICON, "shares": _plain(shares(activation.by_lexicon))},
        "by_part": {"names": PARTS, "shares": _plain(shares(activation.by_part))},
        "information": information,
        "experts": experts,
    }


def _plain(values: np.ndarray) -> list:
    """Lists in which a share that does not exist is None."""
    return np.where(np.isnan(values), None, values).tolist()  # type: ignore[call-overload]


def _clusters(
    engine: Engine, dense: Engine | None, part: Split, activation: Activation, sizes: Sizes
) -> list[dict[str, Any]]:
    """The pooled representation of texts, and what the experts of the last layer write for some of them."""
    (rows, sample), (_, few) = _sample(part, sizes.projected), _sample(part, sizes.written)
    dominant = activation.by_text[rows, -1].argmax(axis=-1)
    labels = np.asarray(sample.labels)
    found = [_cluster("experts", pooled(engine, sample.texts), labels, dominant)]
    if dense is not None:
        found.append(_cluster("dense", pooled(dense, sample.texts), labels, None))
    points, of_text, of_expert = written(engine, few.texts)
    if len(points):  # none where no expert read two tokens of a text
        said = np.asarray(few.labels)[of_text]
        # by class less the mean of each expert, whose being another function would hide the classes
        own = points - np.stack([points[of_expert == expert].mean(axis=0) for expert in of_expert])
        found.append(_cluster("expert outputs", points, said, of_expert) | {"by_label": separation(own, said)})
    return found


def _cluster(title: str, points: np.ndarray, labels: np.ndarray, expert: np.ndarray | None) -> dict[str, Any]:
    """Points `[P, D]`: two dimensions for the eye, all of them for the figures."""
    flat, way = project(points)
    return {
        "title": title,
        "way": way,
        "points": np.round(flat, 3).tolist(),
        "labels": labels.tolist(),
        "expert": None if expert is None else expert.tolist(),
        "by_label": separation(points, labels),
        "by_expert": None if expert is None else separation(points, expert),
    }


def _texts(
    engine: Engine,
    model: Any,
    by_text: np.ndarray,
    part: Split,
    names: Sequence[str],
    probabilities: np.ndarray,
    sizes: Sizes,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Texts one by one: tokens with experts and attribution, each expert knocked out, neighbours by routing."""
    labels = np.asarray(part.labels)
    rows = choose(labels, probabilities, min(sizes.shown, 100))
    texts = [clean_text(part.texts[row]) for row in rows]
    near = neighbours(by_text, by_text[rows], count=20)
    without = None
    if can_close(engine):
        without = knock_out_each(engine, texts, labels[rows])[0]
    exact = in_precision(model, torch.float32)
    found = []
    for place, (row, routed) in enumerate(zip(rows, _one_by_one(engine, texts), strict=True)):
        answer = int(np.argmax(probabilities[row]))
        shown = {
            "row": int(row),
            "text": texts[place],
            "label": names[labels[row]],
            "answer": names[answer],
            "probabilities": probabilities[row].tolist(),
            "tokens": routed,
            "near": [
                {"text": clean_text(part.texts[n]), "label": names[labels[n]]}
                for n in near[place]
                if clean_text(part.texts[n]) != texts[place]
            ][:3],
        }
        if without is not None:
            change = without[:, :, place] - probabilities[row]
            shown["knock_out"] = change.tolist()
            shown["flips"] = (without[:, :, place].argmax(axis=-1) != answer).tolist()
        if has_captum():
            scores = attribute(engine, exact, texts[place], answer)
            shown |= {"gap": scores["gap"], "disputed": scores["disputed"]}
            for token, score in zip(routed, scores["tokens"], strict=True):
                token["score"] = score["score"]
        found.append(shown)
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


def _one_by_one(engine: Engine, texts: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
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
