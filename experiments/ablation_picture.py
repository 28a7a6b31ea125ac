"""Figures 6 and 7: weighted and macro F1 against one factor, with every seed shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .pictures import save_picture


def ablation_picture(ablation: dict[str, Any], path: Path) -> None:
    """`ablation` has a `title` and `rows`, each with `name` and the summaries `f1_weighted` and `f1_macro`."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    names = [row["name"] for row in ablation["rows"]]
    for key, label, colour in (("f1_weighted", "weighted F1", "#1f5fa8"), ("f1_macro", "macro F1", "#c2571a")):
        axes.plot(
            range(len(names)), [row[key]["mean"] for row in ablation["rows"]], marker="o", color=colour, label=label
        )
        for place, row in enumerate(ablation["rows"]):
            values = row[key]["values"]
            axes.scatter([place] * len(values), values, color=colour, alpha=0.35, s=14)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel(ablation["title"])
    axes.set_ylabel("test F1 (dots: seeds)")
    axes.grid(alpha=0.3)
    axes.legend()
    save_picture(figure, path)
