"""What one would do instead of adding domains: train the whole model on each in turn, or on all texts anew."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sentimoe import SentimentClassifier
from sentimoe.inference import Engine
from sentimoe.machine import hardware, versions
from sentimoe.records import read_json, write_json
from sentimoe.training import TrainConfig, dataset_of, finished, fit, prepare, train

from .added_domains import BACKBONE, EPOCHS, NEW, OLD, ORDERS, TOKENS, Study, score

EPOCHS_IN_TURN = 4  # as the tops have at least; the best on validation counts


def run_rivals(study: Study) -> None:
    """Do what is left, and write the record of this seed."""
    record: dict[str, Any] = {"seed": study.seed, "versions": versions(), "hardware": hardware()}
    record |= read_json(study.kept / "base.json")
    record["in_turn"] = [row for order in ORDERS for row in _in_turn(study, order)]
    record["pooled"] = _pooled(study)
    write_json(study.results / "domains" / f"rivals__s{study.seed}.json", record)


def _in_turn(study: Study, order: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The whole model trained on each domain in turn: scores on old and added domains after each."""
    model = str(study.base)
    for step in range(1, len(order) + 1):
        folder = study.kept / f"in-turn-{'-'.join(order[:step])}"
        path = folder.with_suffix(".json")
        if not path.exists():
            config = TrainConfig(
                model=model, head="native", method="full", data=str(study.work / "data" / f"fdu-mtl-{order[step - 1]}"),
                epochs=EPOCHS_IN_TURN, patience=EPOCHS_IN_TURN, max_length=TOKENS, seed=study.seed,
            )  # fmt: skip
            ready = prepare(config, dataset_of(config).with_label_order(study.own))
            started = time.monotonic()
            with tempfile.TemporaryDirectory() as place:
                fit(ready, Path(place))
            seconds = round(time.monotonic() - started, 1)
            engine = Engine(finished(ready), ready.tokenizer, long_texts="truncate")
            finished(ready).save_pretrained(str(folder))
            ready.tokenizer.save_pretrained(str(folder))
            write_json(path, {"added": list(order[:step]), "seconds": seconds} | _scores(study, engine, order[:step]))
            study.progress(f"seed {study.seed}, in turn: {', '.join(order[:step])}: {read_json(path)['old']}")
        yield read_json(path)
        model = str(folder)


def _pooled(study: Study) -> dict[str, Any]:
    """One model of the eight and the four domains together, which is what the others hope to reach."""
    folder = study.work / f"pooled-s{study.seed}"
    if not (folder / "run.json").is_file():
        study.progress(f"seed {study.seed}: the model of all twelve domains is trained")
        config = TrainConfig(
            model=BACKBONE, data=str(study.work / "data" / "fdu-mtl-of-twelve"), method="full", epochs=EPOCHS,
            max_length=TOKENS, seed=study.seed,
        )  # fmt: skip
        train(config, folder, resume=True)
    engine = SentimentClassifier.from_pretrained(folder, long_texts="truncate").engine
    assert isinstance(engine, Engine)
    return {"seconds": read_json(folder / "run.json")["seconds"]["training"]} | _scores(study, engine, NEW)


def _scores(study: Study, engine: Engine, added: Sequence[str]) -> dict[str, Any]:
    said, labels = {}, {}
    for name in (*OLD, *added):
        texts, labels[name] = study.test(name)
        said[name] = np.array(engine.label_names)[engine.predict_proba(texts).argmax(axis=1)]
    old = score(*(np.concatenate([each[name] for name in OLD]) for each in (labels, said)))
    return {"old": old, "domains": {name: score(labels[name], said[name]) for name in added}}
