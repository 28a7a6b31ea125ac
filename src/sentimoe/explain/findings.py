"""Everything that a report says, as one JSON-able object: measured here, drawn in `report`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ..data import SentimentDataset, Split, clean_text
from ..evaluation import classification_metrics, predicted_labels, reliability_bins, risk_coverage
from ..inference import Engine
from ..predictions import joined
from ..upcycle import layer_numbers, moe_layers
from .activation import Activation, by_class, entropy, shares, top_texts, top_tokens
from .attribution import has_captum
from .controls import controls
from .information import class_preferences, information_with_baseline
from .knockout import can_close, knock_out_each
from .mistakes import mistakes
from .one_by_one import one_by_one
from .representation import expert_similarity, pooled, project, separation, written
from .sizes import FULL, Sizes
from .trace import trace, write_trace
from .words import LEXICON, PARTS, has_tagger

Progress = Callable[[str], None]
Passed = Callable[[Iterator[Any]], Iterator[Any]]


def find(
    engine: Engine,
    model: Any,
    dataset: SentimentDataset,
    split: str,
    *,
    numbers: Sequence[int] | None = None,
    trace_path: Path | None = None,
    dense: Engine | None = None,
    sizes: Sizes = FULL,
    name: str = "",
    progress: Progress = lambda line: None,
    passed: Passed = lambda parts: parts,
) -> dict[str, Any]:
    """Measure everything on one split; of a dense model, what needs no experts.

    engine: of a model on torch. model: the same model, from which attribution makes a float32 one. numbers: of the rows
    that the texts stand in, in the reader's file; None: from 1. trace_path: a Parquet file for the whole routing trace.
    dense: the dense model, to compare one with experts with. name: of the model, for people. passed: sees the answers,
    of a model with experts with their traces, go by, for a progress bar.
    """
    # a name of a folder or label that is no valid text could not be written down
    names = [clean_text(name) for name in dataset.label_names]
    dataset = replace(dataset, name=clean_text(dataset.name), label_names=tuple(names))
    part = dataset.splits[split]
    labels = np.asarray(part.labels)
    activation = None
    if moe_layers(engine.model):
        progress(f"tracing {len(part)} texts")
        activation = _activation(engine, part, sizes)
        probabilities, truncated = _traced(engine, part.texts, activation, trace_path, passed)
    else:
        progress(f"answering {len(part)} texts")
        predictions = joined(passed(engine.stream(part.texts)), engine.num_labels)
        probabilities, truncated = predictions.probabilities, len(predictions.truncated)
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
    if activation is not None:
        progress("counting")
        found |= _routing(activation, engine, labels, len(names), part.texts, sizes)
        found |= _without_experts(engine, part, probabilities, dense, sizes, progress)
    progress("projecting")
    found["clusters"] = _clusters(engine, dense, part, activation, sizes)
    found["reliability"] = reliability_bins(labels, probabilities, n_bins=10)
    found["risk_coverage"] = risk_coverage(probabilities.max(axis=1), predicted_labels(probabilities) == labels)
    counts, found["mistakes"] = mistakes([clean_text(text) for text in part.texts], labels, probabilities, names)
    found |= counts
    shown = min(sizes.shown, 100)
    progress(f"explaining {min(shown, len(part))} texts one by one")
    by_text = None if activation is None else activation.by_text
    found["texts"] = one_by_one(engine, model, by_text, part, names, probabilities, shown, progress)
    for row in [
        *found["mistakes"],
        *found["texts"],
        *(text for each in found.get("experts", ()) for text in each["texts"]),
    ]:
        row["row"] = row["row"] + 1 if numbers is None else numbers[row["row"]]
    return found


def without_texts(findings: dict[str, Any]) -> dict[str, Any]:
    """The measures alone, with no text of the data in them, to be kept with results."""
    kept = {key: value for key, value in findings.items() if key not in ("texts", "mistakes")}
    if "experts" in findings:
        kept["experts"] = [{key: row[key] for key in row if key != "texts"} for row in findings["experts"]]
    shown = findings["texts"]
    kept["shown"] = {
        "texts": len(shown),
        "median_gap": float(np.median([text["gap"] for text in shown])) if findings["captum"] and shown else None,
    }
    return kept


def _activation(engine: Engine, part: Split, sizes: Sizes) -> Activation:
    tagged = np.random.default_rng(0).permutation(len(part))[: sizes.tagged] if has_tagger() else ()
    layers = moe_layers(engine.model)
    vocabulary = max(len(engine.tokenizer), engine.model.config.get_text_config().vocab_size)
    return Activation(len(layers), layers[0].experts.num_experts, vocabulary, tagged)


def _traced(
    engine: Engine, texts: Sequence[str], activation: Activation, trace_path: Path | None, passed: Passed
) -> tuple[np.ndarray, int]:
    """Fill `activation`. The answers `[B, C]`, and how many texts were cut."""
    traces = passed(trace(engine, texts))
    answers, truncated = [], 0
    for each in write_trace(traces, trace_path) if trace_path else traces:
        activation.add(each)
        answers.append(each.probabilities)
        truncated += each.truncated
    return np.concatenate(answers), truncated


def _described(engine: Engine, name: str) -> dict[str, Any]:
    layers, config = moe_layers(engine.model), engine.model.config
    return {
        "name": clean_text(name) or getattr(config, "base_config", config).model_type,
        "layers": layer_numbers(engine.model) if layers else [],
        "experts": layers[0].experts.num_experts if layers else 0,
        "experts_per_token": layers[0].num_experts_per_tok if layers else 0,
    }


def _without_experts(
    engine: Engine, part: Split, probabilities: np.ndarray, dense: Engine | None, sizes: Sizes, progress: Progress
) -> dict[str, Any]:
    """How alike the experts are, and what is lost without them and without each one."""
    found: dict[str, Any] = {}
    _, sample = _sample(part, sizes.compared)
    progress("comparing the experts")
    found["similarity"] = expert_similarity(engine, sample.texts).tolist()
    progress("taking the experts away")
    _, some = _sample(part, sizes.answered)
    found["controls"] = controls(engine, some.texts, some.labels, sizes.routers, dense)
    found["knock_out"] = found["flipped_by_some_expert"] = None
    if can_close(engine):
        progress("knocking out each expert")
        rows, some = _sample(part, sizes.knocked_out)
        without, found["knock_out"] = knock_out_each(engine, some.texts, np.asarray(some.labels), progress)
        whole = predicted_labels(probabilities[rows])
        labelled = [predicted_labels(probabilities) for layer in without for probabilities in layer]
        found["flipped_by_some_expert"] = float((np.stack(labelled) != whole).any(axis=0).mean())
    return found


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
    engine: Engine, dense: Engine | None, part: Split, activation: Activation | None, sizes: Sizes
) -> list[dict[str, Any]]:
    """The pooled representation of texts, and what the experts of the last layer write for some of them."""
    rows, sample = _sample(part, sizes.projected)
    labels = np.asarray(sample.labels)
    if activation is None:
        return [_cluster("dense", pooled(engine, sample.texts), labels, None)]
    dominant = activation.by_text[rows, -1].argmax(axis=-1)
    found = [_cluster("experts", pooled(engine, sample.texts), labels, dominant)]
    if dense is not None:
        found.append(_cluster("dense", pooled(dense, sample.texts), labels, None))
    _, few = _sample(part, sizes.written)
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
