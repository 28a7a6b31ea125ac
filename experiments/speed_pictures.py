"""Pictures of speed against quality: the dial of one model, and every peer with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .pictures import save_picture

OURS, THEIRS = "#b8434c", "#4c86b8"


def pareto(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the rows that no other beats in both weighted F1 and texts/s."""
    able = [row for row in rows if "f1_weighted" in row]

    def beaten(row: dict[str, Any]) -> bool:
        return any(
            other["f1_weighted"] >= row["f1_weighted"]
            and other["texts_per_second"] >= row["texts_per_second"]
            and other is not row
            for other in able
        )

    return [row["name"] for row in able if not beaten(row)]


def dial_picture(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Weighted F1 against texts/s for each number of experts per token; the dense model apart."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    dense, steps = rows[0], rows[1:]
    axes.plot([r["texts_per_second"] for r in steps], [r["f1_weighted"] for r in steps], "o-", color=OURS)
    axes.plot(dense["texts_per_second"], dense["f1_weighted"], "s", color=THEIRS)
    for row in rows:
        name = row["experts_per_token"] if row is dense else f"K={row['experts_per_token']}"
        axes.annotate(name, (row["texts_per_second"], row["f1_weighted"]), (4, 4), textcoords="offset points")
    axes.set(xlabel="texts per second", ylabel="weighted F1", title=title)
    axes.grid(alpha=0.3)
    save_picture(figure, path)


def peers_picture(rows: Sequence[dict[str, Any]], front: Sequence[str], path: Path, title: str) -> None:
    """Weighted F1 against texts/s (logarithmic), numbered from the slowest; the Pareto front is a line."""
    able = sorted((row for row in rows if "f1_weighted" in row), key=lambda row: row["texts_per_second"])
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(able, 1):
        place = row["texts_per_second"], row["f1_weighted"]
        axes.plot(*place, "o", color=OURS if row["ours"] else THEIRS, label=f"{number}  {row['name']}")
        axes.annotate(str(number), place, (0, 6), textcoords="offset points", fontsize=8, ha="center")
    figure.legend(loc="outside right upper", fontsize=8, handlelength=1)
    best = [row for row in able if row["name"] in front]
    axes.plot([r["texts_per_second"] for r in best], [r["f1_weighted"] for r in best], "--", color="0.5", zorder=0)
    axes.set(xscale="log", xlim=(50, 60_000), xlabel="texts per second", ylabel="weighted F1", title=title)
    axes.grid(alpha=0.3)
    save_picture(figure, path)
