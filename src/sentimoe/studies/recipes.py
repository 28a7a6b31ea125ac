"""Do gated experts beat their dense parent? Every recipe of `studies/gain.yaml` beside them, and the search."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from ..evaluation import paired_bootstrap, paired_t
from ..evaluation.confusion import Metric
from .records import read_json
from .tables import DATA_TITLES, Cell, Results, Stored

METRICS: tuple[Metric, ...] = ("f1_weighted", "f1_macro")


def gains(results: Results, study: Path) -> list[dict[str, Any]]:
    """One table for each data set and model of a declared study (`results/declared/NAME.json`): its recipes in order.

    `less` of a row is the default recipe of gated experts less that row, over the seeds that both have; `compute` is
    what the row's training takes, as a multiple of the dense default's; `validation` the mean weighted F1 there.
    """
    cells = list(dict.fromkeys(_cell(row) for row in read_json(study)))
    found = []
    for data, model in dict.fromkeys(cell[:2] for cell in cells):
        gated = results.cells.get((data, model, "moe-gated", "default"), [])
        dense = results.cells.get((data, model, "full", "default"), [])
        rows = []
        for cell in (cell for cell in cells if cell[:2] == (data, model)):
            runs = results.cells.get(cell, [])
            row = results.row(cell, name=cell[2] if cell[3] == "default" else f"{cell[2]}, {cell[3]}")
            if runs:
                row["validation"] = mean(run.record["validation"]["f1_weighted"] for run in runs)
            if runs and dense:
                row["compute"] = training_flops(runs) / training_flops(dense)
            if runs and gated and runs is not gated:
                row["less"] = less(gated, runs)
            rows.append(row)
        found.append({"title": DATA_TITLES.get(data, data), "model": model, "rows": rows})
    return found


def less(runs: list[Stored], other: list[Stored]) -> dict[str, Any] | None:
    """Weighted and macro F1 of `runs` less those of `other`, run by run of the seeds that both have; None without any.

    Each metric: the `paired_bootstrap` over texts and seeds, and the `paired_t` over seeds, which takes the test texts
    as given.
    """
    theirs = {run.record["seed"]: run for run in other}
    pairs = [(run, theirs[run.record["seed"]]) for run in runs if run.record["seed"] in theirs]
    if not pairs:
        return None
    first, classes = pairs[0][0], len(pairs[0][0].record["label_names"])
    ours, others = (np.stack([pair[side].predictions for pair in pairs]) for side in (0, 1))
    found: dict[str, Any] = {"seeds": len(pairs)}
    for metric in METRICS:
        scores = [[pair[side].record["test"][metric] for pair in pairs] for side in (0, 1)]
        test = paired_bootstrap(first.labels, ours, others, metric=metric, paired_seeds=True, num_classes=classes)
        found[metric] = {"test": test, "over_seeds": paired_t(*scores)}
    return found


def training_flops(runs: list[Stored]) -> float:
    """FLOPs of one forward of every training text in every declared epoch, up to a factor that recipes share."""
    return mean(run.record["cost"]["gflops_per_text"] * run.record["hyperparameters"]["epochs"] for run in runs)


def trials(folder: Path) -> list[dict[str, Any]]:
    """What was tried on validation, from `results/search/*.json`: one table for each question, a row for each variant.

    A record has `question`, `variant`, `seed`, `validation` (scores) and `seconds` (0: nothing was trained).
    """
    tables: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*.json")):
        record = read_json(path)
        tables[record["question"]][record["variant"]].append(record)
    found = []
    for question, variants in tables.items():
        keys = list(next(iter(variants.values()))[0]["validation"])
        rows = [
            {
                "name": name,
                "seeds": sorted(record["seed"] for record in records),
                "minutes": mean(record["seconds"] for record in records) / 60,
            }
            | {key: mean(record["validation"][key] for record in records) for key in keys}
            for name, records in variants.items()
        ]
        found.append({"question": question, "keys": keys, "rows": rows})
    return found


def _cell(row: dict[str, Any]) -> Cell:
    return row["data"], row["model"], row["method"], row["recipe"]
