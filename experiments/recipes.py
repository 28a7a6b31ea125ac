"""Do gated experts beat their dense parent? Every recipe of `studies/gain.yaml` beside them, and the search."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from sentimoe.evaluation import paired_bootstrap, paired_t
from sentimoe.evaluation.confusion import Metric
from sentimoe.records import read_json

from .tables import DATA_TITLES, Cell, Results, Stored, cell_of, paired

METRICS: tuple[Metric, ...] = ("f1_weighted", "f1_macro")


def gains(results: Results, study: Path) -> list[dict[str, Any]]:
    """One table for each data set and model of a declared study (`results/declared/NAME.json`): its recipes in order.

    A row is compared with the default recipe of gated experts and of dense models, or, when it was trained on other
    texts than these (`more_train`), with its own recipe of them. `less` is the gated experts less that row, over the
    seeds that both have; `compute` is what its training takes, as a multiple of the dense models'; `validation` the
    mean weighted F1 there.
    """
    cells = list(dict.fromkeys(cell_of(row) for row in read_json(study)))
    found = []
    for data, model in dict.fromkeys(cell[:2] for cell in cells):
        rows = []
        for cell in (cell for cell in cells if cell[:2] == (data, model)):
            runs = results.cells.get(cell, [])
            gated, dense = (_same_texts(results, cell, method) for method in ("moe-gated", "full"))
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
    if not (pairs := paired(runs, other)):
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


def _same_texts(results: Results, cell: Cell, method: str) -> list[Stored]:
    """The default runs of a method, or those of the cell's recipe, that were trained on what the cell's were."""
    texts = {run.record["data_sha256"] for run in results.cells.get(cell, [])}
    for recipe in ("default", cell[3]):
        runs = results.cells.get((cell[0], cell[1], method, recipe), [])
        if {run.record["data_sha256"] for run in runs} == texts:
            return runs
    return []
