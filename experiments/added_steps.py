"""The records of `python -m experiments add-domains`, as their page shows them: means over the seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sentimoe.errors import ConfigError
from sentimoe.evaluation import paired_bootstrap
from sentimoe.records import read_json

from .added_domains import KINDS, NEW, SETS

SEEDS = 3  # that the rule asks for


def added_domains(folder: Path) -> dict[str, Any] | None:
    """Values of the template; None until a seed has run. Raises ConfigError for records that do not belong together."""
    paths = sorted(folder.glob("added__s*.json"))
    if not paths:
        return None
    records = [read_json(path) for path in paths]
    arrays = [dict(np.load(path.with_suffix(".npz"))) for path in paths]
    rivals = [read_json(path) for path in sorted(folder.glob("rivals__s*.json"))]
    rates = read_json(folder / "added-rates.json")
    bases = {record["seed"]: record["weights"] for record in records}
    for record in records:
        if record["rates"] != rates["chosen"]:
            raise ConfigError(f"{folder}: seed {record['seed']} has other rates than added-rates.json; run it again")
    for record in rivals:
        if bases.get(record["seed"], record["weights"]) != record["weights"]:
            raise ConfigError(f"{folder}: the rivals of seed {record['seed']} have another base; run them again")
    ours, theirs = (np.stack([each[kind].astype(int) for each in arrays]) for kind in ("experts", "lora"))
    labels = arrays[0]["labels"].astype(int)
    difference = paired_bootstrap(labels, ours, theirs, metric="accuracy", paired_seeds=True)
    decided = len(records) >= SEEDS
    return {
        "seeds": len(records),
        "pays": difference["interval"][0] > 0 if decided else None,
        "old_before": _mean(record["rows"][0]["old"]["accuracy"] for record in records),
        "processors": sorted({_processor(record) for record in records}),
        "ratios": sorted(record["speed"]["ratio"]["ratio"] for record in records),
        "found": _found(records),
        "first": records[0],
        "rates": rates,
        "domains": [_domain(name, [record["domains"][name] for record in records]) for name in (*NEW, *SETS)],
        "difference": difference,
        "of_seeds": [float((a == labels).mean() - (b == labels).mean()) for a, b in zip(ours, theirs, strict=True)],
        "steps": _steps([record["rows"] for record in records], records, "accuracy", "known"),
        "sets": _steps([record["sets"] for record in records], records, "f1_weighted", "known_f1"),
        "in_turn": [_rival(row) for row in (rivals[0]["in_turn"] if rivals else [])],
        "rivals_seed": rivals[0]["seed"] if rivals else None,
        "rivals_beside": next((_ends(each) for each in records if rivals and each["seed"] == rivals[0]["seed"]), None),
        "pooled": _rival(rivals[0]["pooled"]) if rivals else None,
    }


def _domain(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A domain by itself."""
    measure = "f1_weighted" if name in SETS else "accuracy"
    found: dict[str, Any] = {"name": name, "base": None if name in SETS else _mean(row["base"] for row in rows)}
    for kind in KINDS:
        of = [row[kind] for row in rows]
        found[kind] = {
            "score": _mean(each[measure] for each in of),
            "megabytes": of[0]["megabytes"],
            "seconds": _mean(each["training_seconds"] for each in of),
        }
    return found


def _steps(
    of_seeds: Sequence[Sequence[dict[str, Any]]], records: Sequence[dict[str, Any]], measure: str, known: str
) -> list[dict[str, Any]]:
    """The rows after each added domain. measure, known: which score, as routed and where the domain is known."""
    steps = []
    for rows in zip(*of_seeds, strict=True):
        if not (added := rows[0]["added"]):
            continue
        own = [row["domains"][name] for row in rows for name in added]
        base = [record["domains"][name].get("base") for record in records for name in added]
        steps.append(
            {
                "kind": rows[0]["kind"],
                "added": ", ".join(added),
                "count": len(added),
                "old": _mean(row["old"]["accuracy"] for row in rows),
                "moved": _mean(row["old"]["moved"] for row in rows),
                "before": None if None in base else _mean(base),
                "routed": _mean(each[measure] for each in own),
                "known": _mean(each[known] for each in own),
                "found": _mean(each["found"] for each in own),
            }
        )
    return steps


def _found(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Share of the texts of each domain that the router sends there once all four are added, in the first order."""
    last = [next(row for row in record["rows"] if row["added"] == list(NEW)) for record in records]
    return {name: _mean(row["domains"][name]["found"] for row in last) for name in NEW}


def _ends(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Accuracy of a seed before any domain and with LoRA after all four, on old and on new texts."""
    rows = [row for row in record["rows"] if row["kind"] == "lora" and row["order"] == list(NEW)]
    return {
        when: {
            "old": row["old"]["accuracy"],
            "new": _mean(row["domains"][name]["accuracy"] for name in NEW),
        }
        for when, row in (("before", rows[0]), ("after", rows[-1]))
    }


def _processor(record: dict[str, Any]) -> str:
    hardware = record["hardware"]
    return f"{hardware['processor']} ({hardware['model']})" if hardware.get("model") else hardware["processor"]


def _rival(row: dict[str, Any]) -> dict[str, Any]:
    return row | {
        "count": len(row.get("added", NEW)),
        "mean": _mean(each["accuracy"] for each in row["domains"].values()),
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
