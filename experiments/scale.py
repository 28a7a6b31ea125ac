"""What docs/scale.md shows: measured speed of bulk jobs, and what a billion rows would take."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sentimoe.batch.job import PART_ROWS
from sentimoe.records import read_json

DAY, BILLION = 86_400, 1_000_000_000


def summary(results: Path, measured: list[dict[str, Any]]) -> dict[str, Any]:
    """The values of the page. measured: the records of `sentimoe bench --scale`, each with its title."""
    memory, lengths = (
        read_json(path) if (path := results / "scale" / f"{name}.json").exists() else None
        for name in ("memory", "lengths")
    )
    whole = {(row := read_json(path))["engine"]: row for path in sorted((results / "scale").glob("whole__*.json"))}
    on_ray = [each for each in measured if any("actor" in row["name"] for row in each["rows"])]
    return {
        "scale": measured,
        "memory": [] if memory is None else memory["rows"],
        "lengths": lengths,
        "whole": list(whole.values()),
        "slower": whole["ray"]["seconds"] / whole["local"]["seconds"] if {"ray", "local"} <= whole.keys() else None,
        "billion": None if memory is None or not on_ray else billion(on_ray[0], memory["idle"]["rows_per_second"]),
    }


def billion(record: dict[str, Any], driver: float) -> dict[str, Any]:
    """A billion rows a day, from the rate of an actor beside the most others. driver: rows/s without a model."""
    actors, together = max(
        (int(row["name"].split()[-2]), row["texts_per_second"]) for row in record["rows"] if "actor" in row["name"]
    )
    rate = together / actors
    alone = [row["texts_per_second"] for row in record["rows"] if row["name"] == "job"][-1]
    cores = math.ceil(BILLION / DAY / rate)
    rows = BILLION / DAY
    return {
        "title": record["title"],
        "processor": record["hardware"]["processor"],
        "rate": rate,
        "actors": actors,
        "overhead": 1 - together / alone,
        "hours": 1e6 / rate / 3600,
        "cores": cores,
        "read": record["bytes"]["read"],
        "written": record["bytes"]["written"],
        "read_mb": rows * record["bytes"]["read"] / 1e6,
        "written_mb": rows * record["bytes"]["written"] / 1e6,
        "disk": BILLION * record["bytes"]["written"] / 1e12,
        "parts": math.ceil(BILLION / PART_ROWS),
        "load_seconds": record["loading"]["seconds"],
        "megabytes": record["loading"]["megabytes"],
        "load_gb": cores * record["loading"]["megabytes"] / 1e3,
        "driver": driver,
    }
