"""From `results/` to `docs/results.md`, its pictures and the table in the README: nothing in them is typed by hand."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..evaluation import confusion_picture, mcnemar, paired_bootstrap, summarise
from .ablation_picture import ablation_picture

MARKS = ("<!-- results -->", "<!-- /results -->")
DATA_TITLES = {"imdb": "IMDb", "tweeteval-emotion": "TweetEval emotion", "sst5": "SST-5"}
METHOD_ORDER = ("full", "bitfit", "lora", "p-tuning", "moe-plain", "moe-gated", "moe-lora", "zero-shot")


@dataclass(frozen=True)
class Stored:
    """A finished run: its JSON and its test predictions."""

    record: dict[str, Any]
    labels: np.ndarray
    predictions: np.ndarray


Cell = tuple[str, str, str, str]  # data, model, method, recipe


def read_results(results: Path) -> dict[Cell, list[Stored]]:
    """All finished runs by data, model, method and recipe, in the order of their seeds."""
    cells: dict[Cell, list[Stored]] = defaultdict(list)
    for path in sorted((results / "runs").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        with np.load(path.with_suffix(".npz")) as stored:
            run = Stored(record, stored["labels"].astype(int), stored["predictions"].astype(int))
        cells[tuple(record[key] for key in ("data", "model", "method", "recipe"))].append(run)
    return {cell: sorted(runs, key=lambda run: run.record["seed"]) for cell, runs in cells.items()}


def render(results: Path, docs: Path, readme: Path) -> None:
    """Write `docs/results.md`, `docs/performance.md`, `docs/figures/*.png` and the README between its marks."""
    cells = read_results(results)
    paper = yaml.safe_load((results / "paper.yaml").read_text(encoding="utf-8"))
    figures = docs / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    sections = [_section(data, model, cells) for data, model in _pairs(cells)]
    values = {
        "sections": sections,
        "ablations": _ablations(cells),
        "confusions": _confusions(cells, figures),
        "ablation_figures": _ablation_figures(cells, figures),
        "paper": paper,
        "runs": sum(map(len, cells.values())),
        "titles": DATA_TITLES,
    }
    environment = Environment(
        loader=PackageLoader("sentimoe.studies"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"score": lambda value: f"{value:.4f}", "signed": lambda value: f"{100 * value:+.2f}"}
    page = environment.get_template("results.md.jinja").render(**values)
    (docs / "results.md").write_text(page, encoding="utf-8")
    bench = results / "bench" / "copy-moe.json"
    if bench.exists():
        measured = json.loads(bench.read_text(encoding="utf-8"))
        page = environment.get_template("performance.md.jinja").render(bench=measured)
        (docs / "performance.md").write_text(page, encoding="utf-8")
    before, _, rest = readme.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    block = environment.get_template("readme.md.jinja").render(**values)
    readme.write_text(f"{before}{MARKS[0]}\n{block}\n{MARKS[1]}{after}", encoding="utf-8")


def _pairs(cells: dict[Cell, list[Stored]]) -> list[tuple[str, str]]:
    """Data sets and backbones with results: the paper's data sets first, then others by name."""
    order = {data: place for place, data in enumerate(DATA_TITLES)}
    return sorted({cell[:2] for cell in cells}, key=lambda pair: (order.get(pair[0], len(order)), *pair))


def _section(data: str, model: str, cells: dict[Cell, list[Stored]]) -> dict[str, Any]:
    """One table: the methods on one data set and backbone, each beside the dense row."""
    dense = cells.get((data, model, "full", "default"), [])
    rows = []
    for method in METHOD_ORDER:
        runs = cells.get((data, model, method, "default"), [])
        if runs:
            rows.append(_row(method, runs, dense if method != "full" else []))
    return {
        "data": data,
        "title": DATA_TITLES.get(data, data),
        "model": model,
        "rows": rows,
        "n": len(dense[0].labels) if dense else 0,
    }


def _row(name: str, runs: Sequence[Stored], dense: Sequence[Stored]) -> dict[str, Any]:
    records = [run.record for run in runs]
    row: dict[str, Any] = {
        "name": name,
        "seeds": len(runs),
        "rate": records[0]["hyperparameters"]["learning_rate"],
        "cost": records[0]["cost"],
        "training_seconds": mean(record["cost"]["training_seconds"] for record in records),
    }
    for key in ("accuracy", "f1_weighted", "f1_macro"):
        row[key] = summarise([record["test"][key] for record in records])
    if dense:
        labels, classes = runs[0].labels, len(records[0]["label_names"])
        ours, theirs = (np.stack([run.predictions for run in group]) for group in (runs, dense))
        row["against_dense"] = {
            metric: paired_bootstrap(labels, ours, theirs, metric=metric, num_classes=classes)
            for metric in ("f1_weighted", "f1_macro")
        }
        pairs = {run.record["seed"]: run for run in dense}
        row["mcnemar"] = [
            mcnemar(labels, run.predictions, pairs[seed].predictions)["p_value"]
            for run in runs
            if (seed := run.record["seed"]) in pairs
        ]
    return row


ABLATIONS = {
    "load-balancing coefficient": ("aux-0", "aux-0.001", "default", "aux-0.1"),
    "MoE layers": ("layers-1", "default", "layers-4", "layers-6"),
    "experts": ("experts-2", "default", "experts-6", "experts-8"),
    "experts per token": ("k-1", "default"),
}
SETTING = {
    "load-balancing coefficient": "router_aux_loss_coef",
    "MoE layers": "layers_to_transform",
    "experts": "num_experts",
    "experts per token": "num_experts_per_tok",
}
DEFAULTS = {
    "router_aux_loss_coef": 0.01,
    "layers_to_transform": [-2, -1],
    "num_experts": 4,
    "num_experts_per_tok": 2,
}


def _ablations(
    cells: dict[Cell, list[Stored]], data: str = "tweeteval-emotion", model: str = "all-MiniLM-L6-v2"
) -> list:
    """One factor at a time, three seeds each (the first three of the default recipe)."""
    found = []
    for title, recipes in ABLATIONS.items():
        rows: list[dict[str, Any]] = []
        for recipe in recipes:
            runs = cells.get((data, model, "moe-gated", recipe), [])[:3]
            if runs and (recipe != "default" or rows or _any(cells, recipes, data, model)):
                given = runs[0].record["hyperparameters"]["method_settings"]
                value = given.get(SETTING[title], DEFAULTS[SETTING[title]])
                rows.append(_row(str(len(value) if isinstance(value, list) else value), runs, []))
        if len(rows) > 1:
            found.append({"title": title, "rows": rows})
    return found


def _any(cells: dict[Cell, list[Stored]], recipes: Sequence[str], data: str, model: str) -> bool:
    return any((data, model, "moe-gated", recipe) in cells for recipe in recipes if recipe != "default")


def _confusions(cells: dict[Cell, list[Stored]], figures: Path) -> list[dict[str, str]]:
    """Figure 3: the confusion matrix of gated experts on each data set, summed over the seeds."""
    found = []
    for data, model in _pairs(cells):
        runs = cells.get((data, model, "moe-gated", "default"), [])
        if runs:
            matrix = sum(np.array(run.record["test"]["confusion_matrix"]) for run in runs)
            name = f"confusion-{data}-{model.replace('/', '-')}.png"
            title = f"{DATA_TITLES.get(data, data)}, {model}, {len(runs)} seeds"
            confusion_picture(np.asarray(matrix), runs[0].record["label_names"], figures / name, title)
            found.append({"file": name, "title": title})
    return found


def _ablation_figures(cells: dict[Cell, list[Stored]], figures: Path) -> list[dict[str, str]]:
    found = []
    for ablation in _ablations(cells):
        name = f"ablation-{ablation['title'].replace(' ', '-')}.png"
        ablation_picture(ablation, figures / name)
        found.append({"file": name, "title": ablation["title"]})
    return found
