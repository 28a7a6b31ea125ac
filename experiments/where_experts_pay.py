"""What docs/where-experts-pay.md shows of models of sixteen domains, and where experts pay by all its rules."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

import numpy as np

from sentimoe.errors import ConfigError
from sentimoe.evaluation import paired_bootstrap

from .domains import LEFT_OUT
from .many_texts import SEEDS
from .tables import Results, Stored, machine, paired

MODEL = "all-MiniLM-L6-v2"
DOMAIN_ROWS = (
    ("dense", "fdu-mtl", "full", "default"),
    ("gated experts, chosen per token", "fdu-mtl", "moe-gated", "default"),
    ("gated experts, chosen per text", "fdu-mtl", "moe-gated", "chosen-per-text"),
    ("LoRA", "fdu-mtl", "lora", "default"),
    ("dense, trained on eight of the domains", "fdu-mtl-of-eight", "full", "default"),
)
ALONE = (("a dense model of each domain", "full"), ("LoRA of each domain", "lora"))


def domains(results: Results, places: Sequence[str]) -> list[dict[str, Any]]:
    """Accuracy on all test texts of fdu-mtl, which has 400 of each domain, and its difference to the dense model.

    places: the domain of each test text.
    """
    dense, rows = results.cells.get(("fdu-mtl", MODEL, "full", "default"), []), []
    for title, data, method, recipe in DOMAIN_ROWS:
        if runs := results.cells.get((data, MODEL, method, recipe), []):
            row: dict[str, Any] = {
                "title": title,
                "seeds": len(runs),
                "accuracy": mean(run.record["test"]["accuracy"] for run in runs),
                "gflops": runs[0].record["cost"]["gflops_per_text"],
                "machine": machine(runs[0].record),
            }
            if runs is not dense and data == "fdu-mtl" and (pairs := paired(runs, dense)):
                row["less"] = _difference(pairs, np.ones(len(runs[0].labels), dtype=bool))
                if title.startswith("gated"):
                    row["pays"] = row["less"]["interval"][0] > 0 if len(pairs) >= len(SEEDS) else None
            rows.append(row)
    alone = (_of_each(results, title, method, dense, np.array(places)) for title, method in ALONE)
    return rows + [each for each in alone if each is not None]


def _of_each(
    results: Results, title: str, method: str, dense: Sequence[Stored], places: np.ndarray
) -> dict[str, Any] | None:
    """A model of each domain, beside the dense model of all; None until every domain has the seeds of that one."""
    names = sorted(set(places))
    cells = {name: results.cells.get((f"fdu-mtl-{name}", MODEL, method, "default"), []) for name in names}
    seeds = {run.record["seed"] for run in dense}
    if not names or not seeds or any({run.record["seed"] for run in runs} != seeds for runs in cells.values()):
        return None
    order = np.concatenate([np.flatnonzero(places == name) for name in names])
    labels = np.concatenate([cells[name][0].labels for name in names])
    if not np.array_equal(labels, dense[0].labels[order]):
        raise ConfigError("the test texts of single domains are not those of fdu-mtl; write the domains again")
    ours = np.stack([np.concatenate([cells[name][each].predictions for name in names]) for each in range(len(seeds))])
    theirs = np.stack([run.predictions[order] for run in dense])
    runs = [run for name in names for run in cells[name]]
    return {
        "title": title,
        "seeds": len(seeds),
        "accuracy": float((ours == labels).mean()),
        "gflops": mean(run.record["cost"]["gflops_per_text"] for run in runs),
        "machine": machine(runs[0].record),
        "less": paired_bootstrap(labels, ours, theirs, metric="accuracy", paired_seeds=True),
    }


def left_out(results: Results, places: list[str]) -> dict[str, Any] | None:
    """Accuracy on the domains that training left out, dense and with experts, and the difference; None until both ran.

    places: the domain of each test text.
    """
    runs = [results.cells.get(("fdu-mtl-of-twelve", MODEL, name, "default"), []) for name in ("full", "moe-gated")]
    if not places or not all(runs):
        return None
    dense, gated = runs
    if not (pairs := paired(gated, dense)):
        return None
    chosen = np.isin(places, LEFT_OUT)
    found = _difference(pairs, chosen)
    of_seeds = [_difference([pair], chosen)["difference"] for pair in pairs]
    decided, behind = len(pairs) >= len(SEEDS), found["difference"] <= 0
    pays = found["interval"][0] > 0 if decided else False if behind else None
    of = {"seeds": len(pairs), "texts": int(chosen.sum()), "domains": LEFT_OUT}
    return of | {"difference": found, "of_seeds": of_seeds, "pays": pays}


def paid(found: dict[str, Any]) -> list[str]:
    """Where experts pay by the rules, of all that the page shows."""
    places = [f"{each['row']} on {each['size']:,} texts" for each in found["many"]["verdicts"] if each["pays"]]
    places += [f"sixteen domains, {row['title']}" for row in found["domains"] if row.get("pays")]
    if found["left_out"] and found["left_out"]["pays"]:
        places.append("domains that were left out of training")
    if found["added"] and found["added"]["pays"]:
        places.append("domains that are added later")
    return places


def not_run(found: dict[str, Any]) -> list[str]:
    """What the page declares about many domains, and no result is there."""
    titles = {row["title"] for row in found["domains"]}
    missing = [
        title for title in (*(row[0] for row in DOMAIN_ROWS), *(title for title, _ in ALONE)) if title not in titles
    ]
    others = {"domains that were left out": found["left_out"], "different label sets in one pass": found["trunk"]}
    return missing + [what for what, there in others.items() if not there]


def _difference(pairs: Sequence[tuple[Stored, Stored]], chosen: np.ndarray) -> dict[str, Any]:
    """Accuracy of the first less that of the second on the chosen test texts `[B]`, over texts and seeds."""
    ours, theirs = (np.stack([pair[side].predictions[chosen] for pair in pairs]) for side in (0, 1))
    return paired_bootstrap(pairs[0][0].labels[chosen], ours, theirs, metric="accuracy", paired_seeds=True)
