"""What the methods of a study cost beside each other: throughput in turns in one process, peak memory in fresh ones.

The models are as they are before training: time and memory do not depend on the values of weights, but for how evenly
a router spreads the tokens. Adapters that a study merges are measured both ways.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments import IMPORTABLE
from sentimoe.data import Split
from sentimoe.evaluation import interleaved, peak_memory_mib, throughput
from sentimoe.inference import Engine, keep_freed_memory
from sentimoe.machine import hardware, versions
from sentimoe.methods import METHODS
from sentimoe.records import write_json
from sentimoe.training import TrainConfig, dataset_of, finished, fit, prepare

from .perform import Run, asked

TEXTS = 1000
MEMORY_TEXTS = 256
STEPS = 3


def rows_of(study: list[Run], data: str, model: str) -> list[tuple[str, Run]]:
    """Titles and runs of the default recipes on one data set and model, an unmerged twin beside each merged one."""
    rows: dict[str, Run] = {}
    for run in study:
        if (run.data, run.model, run.recipe) == (data, model, "default") and run.method not in rows:
            rows[run.method] = run
            if METHODS[run.method].merges and not run.settings.get("load_in_4bit"):
                rows[f"{run.method}, not merged"] = replace(run, settings=run.settings | {"merge": False})
    return list(rows.items())


def measure(
    study: list[Run],
    data: str,
    model: str,
    results: Path,
    data_root: Path | None,
    progress: Callable[[str], None],
    rounds: int = 9,
) -> dict[str, Any]:
    """Measure every method of a data set and model; writes `results/costs/DATA__MODEL.json` and returns it."""
    keep_freed_memory()
    rows = rows_of(study, data, model)
    record: dict[str, Any] = {"data": data, "model": model, "rounds": rounds}
    built = [(title, *build(run, data_root)) for title, run in rows]
    texts = built[0][2].splits["test"].sample(TEXTS).texts
    calls = {title: partial(engine.predict_proba, texts) for title, engine, _ in built}
    seconds = interleaved(calls, rounds, progress)
    record["texts"] = len(texts)
    record["rows"] = []
    for title, run in rows:
        row = {"name": title, **throughput(seconds[title], len(texts))}
        row["prediction_mib"] = fresh_peak("predict", run, data_root)
        row["training_mib"] = fresh_peak("train", run, data_root) if METHODS[run.method].adapt else None
        record["rows"].append(row)
        progress(f"{title}: {row['texts_per_second']:.1f} texts/s, {row['prediction_mib']:.0f} MiB")
    record |= {"hardware": hardware(), "versions": versions()}
    path = results / "costs" / f"{data}__{model.replace('/', '-')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    return record


def build(run: Run, data_root: Path | None) -> tuple[Any, Any]:
    """The engine of a run, not trained, and its data set."""
    config = run.config(data_root)
    if METHODS[run.method].adapt is None:
        outcome = asked(run, config)
        return outcome.engine, outcome.dataset
    dataset = dataset_of(config)
    ready = prepare(config, dataset)
    model = finished(ready).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return Engine(model, ready.tokenizer, precision=config.precision, long_texts=run.long_texts), dataset


def fresh_peak(what: str, run: Run, data_root: Path | None) -> float:
    """Peak memory of a fresh process that predicts or trains, in MiB: of the GPU where there is one, else resident."""
    program = IMPORTABLE + "from experiments.costs import peak; peak(sys.stdin.read())"
    request = json.dumps({"what": what, "run": vars(run), "data_root": None if data_root is None else str(data_root)})
    done = subprocess.run([sys.executable, "-c", program], input=request, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def peak(request: str) -> None:
    """What `fresh_peak` runs in the other process; prints MiB."""
    given = json.loads(request)
    run, data_root = Run(**given["run"]), given["data_root"] and Path(given["data_root"])
    {"predict": _predict, "train": _train}[given["what"]](run, data_root)
    print(torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else peak_memory_mib())


def _predict(run: Run, data_root: Path | None) -> None:
    engine, dataset = build(run, data_root)
    engine.predict_proba(dataset.splits["test"].sample(MEMORY_TEXTS).texts)


def _train(run: Run, data_root: Path | None) -> None:
    """The first steps of a training run, on its longest texts."""
    config: TrainConfig = run.config(data_root)
    dataset = dataset_of(config)
    ready = prepare(replace(config, epochs=1), dataset)
    assert ready.config.batch_size is not None
    batch_size = ready.config.batch_size
    train, size = ready.train, STEPS * batch_size
    longest = sorted(range(len(train)), key=lambda index: -len(train.texts[index]))[:size]
    part = Split([train.texts[i] for i in longest], [train.labels[i] for i in longest])
    ready.model.to("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        fit(replace(ready, train=part, validation=ready.validation.sample(batch_size)), Path(folder))
