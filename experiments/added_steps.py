"""The record of `python -m experiments add-domains`, as its page shows it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def added_steps(record: dict[str, Any]) -> dict[str, Any]:
    """Values of the template: `record`, and `steps`, the rows after each added domain with their means."""
    domains = {name: {"base": None, "experts": None} | row for name, row in record["domains"].items()}
    base = {name: row["base"] for name, row in domains.items()}
    steps = []
    for row in record["rows"]:
        if not (added := row["added"]):
            continue
        own = [row["domains"][name] for name in added]
        means = {key: _mean(each[key] for each in own) for key in ("known", "found")}
        means |= {"routed": _mean(each["accuracy"] for each in own), "before": _mean(base[name] for name in added)}
        steps.append({"kind": row["kind"], "added": ", ".join(added), "old": row["old"]} | means)
    for row in record.get("sequential", []):
        row["mean"] = _mean(each["accuracy"] for each in row["domains"].values())
    return {"record": {"sequential": [], "speed": None} | record | {"domains": domains}, "steps": steps}


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
