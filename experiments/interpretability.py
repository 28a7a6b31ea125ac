"""Figures 4, 5 and 8 from the records of `sentimoe explain --record`: what the experts specialise in, and what not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sentimoe.records import read_json

from .pictures import literal, save_picture

ALPHA = 0.05


def interpretability(results: Path, figures: Path) -> list[dict[str, Any]]:
    """Every record under `results/explain/`, with its pictures drawn and its statements made."""
    found = []
    for path in sorted((results / "explain").glob("*.json")):
        record = read_json(path) | {"title": path.stem}
        record["maps"] = f"figures/explain-{path.stem}-classes.png"
        record["scatter"] = f"figures/explain-{path.stem}-clusters.png"
        class_picture(record, figures / Path(record["maps"]).name)
        cluster_picture(record, figures / Path(record["scatter"]).name)
        said: dict[str, Any] = {"preferred": preferred(record), "unread": unread(record), "closing": closing(record)}
        said |= {"likeness": likeness(record), "reads": reads(record), "apart": apart(record)}
        found.append(record | said)
    return found


def preferred(record: dict[str, Any]) -> list[dict[str, Any]]:
    """For every class and layer the expert that reads most of it, where shuffled labels do not explain it."""
    rows = []
    for c, label in enumerate(record["data"]["labels"]):
        for place, layer in enumerate(record["model"]["layers"]):
            shares, p_values = record["by_class"][c][place], record["class_p"][c][place]
            able = [expert for expert, p in enumerate(p_values) if p < ALPHA and shares[expert] is not None]
            if able:
                expert = max(able, key=lambda e: shares[e])
                beside = [row[place][expert] for k, row in enumerate(record["by_class"]) if k != c]
                others = np.mean([share for share in beside if share is not None])
                rows.append(
                    {"label": label, "layer": layer, "expert": expert, "share": shares[expert], "others": float(others)}
                    | {"p": p_values[expert]}
                )
    return rows


def reads(record: dict[str, Any]) -> list[list[str]]:
    """For every expert, in the order of `experts`, the classes whose tokens it reads beyond chance."""
    labels, p_values = record["data"]["labels"], np.array(record["class_p"])
    return [
        [label for c, label in enumerate(labels) if p_values[c, place, expert] < ALPHA]
        for place, expert in np.ndindex(p_values.shape[1:])
    ]


def unread(record: dict[str, Any]) -> list[str]:
    """Classes and layers for which no expert is beyond chance, and experts that no class prefers."""
    layers, experts = record["model"]["layers"], record["model"]["experts"]
    p_values = np.array(record["class_p"])
    found = [
        f"layer {layer}: no expert reads more of {label} than chance explains"
        for place, layer in enumerate(layers)
        for c, label in enumerate(record["data"]["labels"])
        if (p_values[c, place] >= ALPHA).all()
    ]
    found += [
        f"layer {layer}: expert {expert} is preferred by no class"
        for place, layer in enumerate(layers)
        for expert in range(experts)
        if (p_values[:, place, expert] >= ALPHA).all()
    ]
    return found


def likeness(record: dict[str, Any]) -> list[list[float]]:
    """For every layer the smallest and the largest cosine of what two different experts write for the same tokens."""
    found = []
    for layer in record["similarity"]:
        values = [value for row, line in enumerate(layer) for column, value in enumerate(line) if row != column]
        found.append([min(values), max(values)])
    return found


def apart(record: dict[str, Any]) -> list[float] | None:
    """Silhouettes by class of the dense model and of the one with experts, where the latter is not above by 0.02."""
    found = {cluster["title"]: cluster["by_label"]["silhouette"] for cluster in record["clusters"]}
    dense, experts = found.get("dense"), found.get("experts")
    return None if dense is None or experts is None or experts - dense >= 0.02 else [dense, experts]


def closing(record: dict[str, Any]) -> dict[str, Any] | None:
    """How often closing one expert takes more than a point of F1 from a class, and how often it gives as much."""
    rows, labels = record["knock_out"], record["data"]["labels"]
    if not rows:
        return None
    cells = [
        {"layer": row["layer"], "expert": row["expert"], "label": label, "points": points}
        for row in rows
        for label, points in zip(labels, row["change"], strict=True)
    ]
    weighted, points = [row["weighted"] for row in rows], [cell["points"] for cell in cells]
    return {
        "cells": len(cells),
        "down": sum(change < -1 for change in points),
        "up": sum(change > 1 for change in points),
        "worst": min(cells, key=lambda cell: cell["points"]),
        "best": max(cells, key=lambda cell: cell["points"]),
        "weighted": [min(weighted), max(weighted)],
    }


def class_picture(record: dict[str, Any], path: Path) -> None:
    """Figure 4: share of each class's tokens that every expert reads, a panel for each layer."""
    layers, labels = record["model"]["layers"], record["data"]["labels"]
    figure = Figure(figsize=(1.2 + 3.2 * len(layers), 1.2 + 0.45 * len(labels)), layout="constrained")
    for place, axes in enumerate(np.atleast_1d(figure.subplots(1, len(layers), sharey=True))):
        shares = np.array([row[place] for row in record["by_class"]], dtype=float)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), share in np.ndenumerate(shares):
            axes.text(column, row, f"{share:.0%}", ha="center", va="center", color="white" if share > 0.5 else "black")
        axes.set(xlabel="expert", title=f"layer {layers[place]}", xticks=range(shares.shape[1]))
        axes.set_yticks(range(len(labels)), literal(labels))
    save_picture(figure, path, dpi=130)


def cluster_picture(record: dict[str, Any], path: Path) -> None:
    """Figure 5: the pooled representation and the experts' outputs, by class and by expert, the dense model beside."""
    panels = []
    for cluster in record["clusters"]:
        panels.append((f"{cluster['title']}, by class", cluster["points"], cluster["labels"], record["data"]["labels"]))
        if cluster["expert"] is not None:
            names = [f"expert {expert}" for expert in range(record["model"]["experts"])]
            panels.append((f"{cluster['title']}, by expert", cluster["points"], cluster["expert"], names))
    figure = Figure(figsize=(4 * len(panels), 4), layout="constrained")
    for axes, (title, points, groups, names) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True
    ):
        places, colours = np.array(points), np.array(groups)
        for number, name in enumerate(literal(names)):
            points = places[colours == number]
            axes.scatter(points[:, 0], points[:, 1], s=6, alpha=0.7, label=name)
        axes.set(title=title, xticks=[], yticks=[])
        axes.legend(fontsize=7, markerscale=2)
    save_picture(figure, path, dpi=110)
