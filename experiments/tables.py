"""From the JSON under `results/` to the rows of the tables: means over seeds, tests against the dense row, reasons for
what is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml
from sklearn.metrics import precision_recall_fscore_support

from sentimoe.errors import ConfigError
from sentimoe.evaluation import mcnemar, paired_bootstrap, summarise
from sentimoe.records import read_json
from sentimoe_settings import METHOD_SETTINGS

DATA_TITLES = {"imdb": "IMDb", "tweeteval-emotion": "TweetEval emotion", "sst5": "SST-5"}
METHOD_ORDER = ("full", "bitfit", "lora", "p-tuning", "moe-plain", "moe-gated", "moe-lora", "zero-shot")
MARGIN = 0.005
Cell = tuple[str, str, str, str]  # data, model, method, recipe


@dataclass(frozen=True)
class Stored:
    """A finished run: its JSON and its test predictions."""

    record: dict[str, Any]
    labels: np.ndarray
    predictions: np.ndarray


def paired(runs: Sequence[Stored], other: Sequence[Stored]) -> list[tuple[Stored, Stored]]:
    """The runs of the seeds that both have, pair by pair."""
    theirs = {run.record["seed"]: run for run in other}
    return [(run, theirs[run.record["seed"]]) for run in runs if run.record["seed"] in theirs]


class Results:
    """Everything under a results folder.

    cells: the finished runs by data, model, method and recipe, in the order of their seeds. Raises ConfigError for
    results of different data in one cell. declared: how many seeds
    the study wants of each cell, and why some are missing. data: Table 1. costs: rows by data, model and method.
    paper: the paper's figures.
    """

    def __init__(self, folder: Path):
        self.cells: dict[Cell, list[Stored]] = defaultdict(list)
        for path in sorted((folder / "runs").glob("*.json")):
            record = read_json(path)
            with np.load(path.with_suffix(".npz")) as stored:
                run = Stored(record, stored["labels"].astype(int), stored["predictions"].astype(int))
            self.cells[cell_of(record)].append(run)
        for cell, runs in self.cells.items():
            if len(hashes := {run.record["data_sha256"] for run in runs}) > 1:
                raise ConfigError(
                    f"the results of {', '.join(cell)} are of {len(hashes)} different data sets (data_sha256); remove "
                    f"those of the ones that are no longer used from {folder / 'runs'}"
                )
            runs.sort(key=lambda run: run.record["seed"])
        self.declared: dict[Cell, list[str]] = defaultdict(list)
        declared = sorted((folder / "declared").glob("*.json"))
        wanted = {(cell_of(row), row["seed"]): row["missing"] for path in declared for row in read_json(path)}
        for (cell, _), missing in wanted.items():
            self.declared[cell].append(missing)
        self.data = {path.stem: read_json(path) for path in sorted((folder / "data").glob("*.json"))}
        self.costs: dict[tuple[str, str, str], dict[str, Any]] = {}
        for path in sorted((folder / "costs").glob("*.json")):
            measured = read_json(path)
            for row in measured["rows"]:
                self.costs[measured["data"], measured["model"], row["name"]] = row
        if not (folder / "paper.yaml").is_file():
            raise ConfigError(
                f"{folder} has no paper.yaml, the published figures that ours stand beside; copy it from this "
                "repository's results/, or name the folder of results with --results"
            )
        self.paper = yaml.safe_load((folder / "paper.yaml").read_text(encoding="utf-8"))

    def missing(self, cell: Cell) -> str:
        """Why a cell is empty; "" when it has a finished run."""
        if self.cells.get(cell):
            return ""
        return next((reason for reason in self.declared.get(cell, []) if reason), "not part of the study")

    def pairs(self) -> list[tuple[str, str]]:
        """Data sets and models with finished runs: the paper's data sets first, then others by name.

        Parts of a data set, named `DATA-PART`, have a page of their own.
        """
        order = {data: place for place, data in enumerate(DATA_TITLES)}
        parts = _parts({cell[0] for cell in self.cells})
        finished = {cell[:2] for cell, runs in self.cells.items() if runs and cell[0] not in parts}
        return sorted(finished, key=lambda pair: (order.get(pair[0], len(order)), *pair))

    def row(self, cell: Cell, against: Cell | None = None, seeds: int | None = None, name: str = "") -> dict[str, Any]:
        """One row: scores over the seeds, costs, and the difference to another cell; `missing` says why it is empty."""
        runs = self.cells.get(cell, [])[:seeds]
        wanted = len(self.declared.get(cell, [])) or len(runs)
        row: dict[str, Any] = {"name": name or cell[2], "seeds": len(runs), "wanted": min(wanted, seeds or wanted)}
        row["missing"] = self.missing(cell)
        if not runs:
            return row
        records = [run.record for run in runs]
        row["rate"] = records[0]["hyperparameters"].get("learning_rate")
        row["cost"] = records[0]["cost"] | {"measured": self.costs.get(cell[:3])}
        times = [record["cost"]["training_seconds"] for record in records]
        row["training_seconds"] = None if None in times else mean(times)
        row["off_label"] = records[0].get("off_label")
        row["unanswered"] = int(np.sum(runs[0].predictions < 0))
        for key in ("accuracy", "f1_weighted", "f1_macro"):
            row[key] = summarise([record["test"][key] for record in records])
        for key, values in _precision_recall(runs).items():
            row[key] = summarise(values)
        other = self.cells.get(against, [])[:seeds] if against and against != cell else []
        if other and np.array_equal(other[0].labels, runs[0].labels):  # not of another `limit`
            row["against"] = _compare(runs, other)
        return row


def _parts(names: set[str]) -> set[str]:
    """The data sets that are parts of others, `DATA-PART`."""
    return {name for name in names if any(name.startswith(f"{other}-") for other in names)}


def cell_of(record: dict[str, Any]) -> Cell:
    """Which cell a result, or a row of what is declared, belongs to."""
    return record["data"], record["model"], record["method"], record["recipe"]


def machine(record: dict[str, Any]) -> str:
    """The GPU of a result, or its processor."""
    hardware: dict[str, str] = record["hardware"]
    return hardware.get("gpu") or hardware["processor"]


def _precision_recall(runs: Sequence[Stored]) -> dict[str, list[float]]:
    """Weighted and macro precision and recall of each run."""
    found: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        classes = list(range(len(run.record["label_names"])))
        for average in ("weighted", "macro"):
            scores = precision_recall_fscore_support(
                run.labels, run.predictions, labels=classes, average=average, zero_division=0
            )
            for key, score in zip(("precision", "recall"), scores, strict=False):
                found[f"{key}_{average}"].append(float(score))
    return found


def _compare(runs: Sequence[Stored], other: Sequence[Stored]) -> dict[str, Any]:
    """Paired bootstrap of the means, and McNemar's test for each seed that both have."""
    labels, classes = runs[0].labels, len(runs[0].record["label_names"])
    ours, theirs = (np.stack([run.predictions for run in group]) for group in (runs, other))
    found: dict[str, Any] = {
        metric: paired_bootstrap(labels, ours, theirs, metric=metric, num_classes=classes)
        for metric in ("f1_weighted", "f1_macro")
    }
    by_seed = {run.record["seed"]: run for run in other}
    found["mcnemar"] = [
        mcnemar(labels, run.predictions, by_seed[run.record["seed"]].predictions)["p_value"]
        for run in runs
        if run.record["seed"] in by_seed
    ]
    return found


def data_rows(results: Results) -> list[dict[str, Any]]:
    """Table 1: rows of each split, and the paper's counts; without parts of data sets."""
    names = [*DATA_TITLES, *sorted(set(results.data) - set(DATA_TITLES) - _parts(set(results.data)))]
    return [
        {
            "title": DATA_TITLES.get(name, name),
            "ours": results.data.get(name),
            "paper": results.paper["table_1"].get(name),
        }
        for name in names
    ]


def sections(results: Results) -> list[dict[str, Any]]:
    """One table for each data set and model: every declared method beside the dense row."""
    found = []
    for data, model in results.pairs():
        dense = (data, model, "full", "default")
        rows = [
            results.row((data, model, method, recipe), against=dense, name=_name(method, recipe))
            for method in METHOD_ORDER
            for recipe in _recipes(results, data, model, method)
        ]
        labels = next(runs[0].labels for cell, runs in results.cells.items() if runs and cell[:2] == (data, model))
        title = DATA_TITLES.get(data, data)
        unmerged = [row for key, row in results.costs.items() if key[:2] == (data, model) and "," in key[2]]
        found.append(
            {"data": data, "title": title, "model": model, "rows": rows, "unmerged": unmerged, "n": len(labels)}
        )
    return found


def split_rows(results: Results) -> list[dict[str, Any]]:
    """Divided models beside the dense models that they were made from: is weighted F1 lower by less than `MARGIN`?

    Seeds are paired. `low` is the lower end of a one-sided 95% interval of the difference.
    """
    found = []
    for data, model in results.pairs():
        dense = {run.record["seed"]: run for run in results.cells.get((data, model, "full", "default"), [])}
        known = {cell[3] for cell in [*results.cells, *results.declared] if cell[:3] == (data, model, "moe-split")}
        for recipe in sorted(known):
            cell = (data, model, "moe-split", recipe)
            runs = [run for run in results.cells.get(cell, []) if run.record["seed"] in dense]
            row = results.row(cell) | {"title": DATA_TITLES.get(data, data), "model": model, "recipe": recipe}
            if runs:
                teachers = [dense[run.record["seed"]] for run in runs]
                ours, theirs = (np.stack([run.predictions for run in group]) for group in (runs, teachers))
                classes = len(runs[0].record["label_names"])
                test = paired_bootstrap(
                    runs[0].labels, ours, theirs, confidence=0.9, paired_seeds=True, num_classes=classes
                )
                settings = runs[0].record["hyperparameters"]["method_settings"]
                row |= {"test": test, "low": test["interval"][0], "not_worse": test["interval"][0] > -MARGIN}
                keys = ("num_shared_experts", "num_experts_per_tok", "num_experts")
                shared, chosen, routed = ((METHOD_SETTINGS["moe-split"] | settings)[key] for key in keys)
                row["experts"] = f"{shared} + {chosen} of {routed}"
                row["gflops_dense"] = teachers[0].record["cost"]["gflops_per_text"]
            found.append(row)
    return found


def _recipes(results: Results, data: str, model: str, method: str) -> list[str]:
    """The default; of zero-shot, where a recipe is a way of asking, all of them."""
    known = {cell[3] for cell in [*results.cells, *results.declared] if cell[:3] == (data, model, method)}
    others = sorted(known - {"default"}) if method == "zero-shot" else []
    return (["default"] if "default" in known else []) + others


def _name(method: str, recipe: str) -> str:
    return method if recipe == "default" else f"{method}, {recipe}"


@dataclass(frozen=True)
class Ablation:
    """One factor: `cells` are (method, recipe); the values of a setting name the rows, or names of their own do."""

    title: str
    cells: tuple[tuple[str, str], ...]
    setting: str | None = None
    default: Any = None
    names: tuple[str, ...] = ()


def _gated(*recipes: str) -> tuple[tuple[str, str], ...]:
    return tuple(("moe-gated", recipe) for recipe in recipes)


ABLATIONS = (
    Ablation(
        "load-balancing coefficient", _gated("aux-0", "aux-0.001", "default", "aux-0.1"), "router_aux_loss_coef", 0.01
    ),
    Ablation(
        "MoE layers", _gated("layers-1", "default", "layers-4", "layers-6"), "layers_to_transform", [-2, -1]
    ),
    Ablation("experts", _gated("experts-2", "default", "experts-6", "experts-8"), "num_experts", 4),
    Ablation("experts per token", _gated("k-1", "default"), "num_experts_per_tok", 2),
    Ablation(
        "gate",
        (("moe-plain", "default"), ("moe-plain", "equal-parameters"), *_gated("default", "random-gate")),
        names=("plain, equal width", "plain, equal parameters", "gated", "gated, random gate at the start"),
    ),
)  # fmt: skip


def ablations(results: Results) -> list[dict[str, Any]]:
    """One factor at a time over the first three seeds, each row beside the default recipe of gated experts."""
    found = []
    data, model = "tweeteval-emotion", "all-MiniLM-L6-v2"
    default = (data, model, "moe-gated", "default")
    for ablation in ABLATIONS:
        rows = []
        for place, (method, recipe) in enumerate(ablation.cells):
            cell = (data, model, method, recipe)
            row = results.row(cell, against=default, seeds=3, name=recipe)
            row["default"] = cell == default
            if ablation.names:
                row["name"] = ablation.names[place]
            elif not row["missing"]:
                settings = results.cells[cell][0].record["hyperparameters"]["method_settings"]
                value = settings.get(ablation.setting, ablation.default)
                row["name"] = str(len(value) if isinstance(value, list) else value)
            rows.append(row)
        finished = [row for row in rows if not row["missing"]]
        if len(finished) > 1:
            found.append({"title": ablation.title, "rows": rows, "finished": finished, "numeric": not ablation.names})
    return found


def beside_paper(results: Results, table: str) -> list[dict[str, Any]]:
    """A table of the paper, our cells beside each of its rows: the same model, and the ones at hand."""
    found = []
    for data, rows in results.paper[table].items():
        stand_ins = [model for of_data, model in results.pairs() if of_data == data]
        for row in rows:
            encoder = row["model"] == "roberta-base"
            models = [row["model"], *(m for m in stand_ins if encoder != m.startswith("gemma"))]
            ours = [
                results.row((data, model, row["method"], "default"), name=model) | {"model": model} for model in models
            ]
            ours = [row for row in ours if row["missing"] != "not part of the study"]
            found.append({"data": data, "title": DATA_TITLES[data], "paper": row, "encoder": encoder, "ours": ours})
    return found
