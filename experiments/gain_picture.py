"""How much closer to their teacher experts come than the dense student, against the number of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .pictures import save_picture


def gain_picture(rows: Sequence[dict[str, Any]], path: Path) -> bool:
    """Draw rows of `many_texts` that have a dense row of as many texts; whether there are such of two sizes.

    Lines are differences of the divergence in nats, above 0 where a row is closer than `dense`; bars are 95% intervals.
    """
    found = [row for row in rows if row["less"].get("dense")]
    sizes = sorted({row["size"] for row in found})
    if len(sizes) < 2:
        return False
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for number, name in enumerate(dict.fromkeys(row["row"] for row in found)):
        own = sorted((row for row in found if row["row"] == name), key=lambda row: row["size"])
        gains = [row["less"]["dense"] for row in own]
        places = [sizes.index(row["size"]) + 0.06 * number for row in own]  # apart, so that no bar hides another
        bars = [
            [each["difference"] - each["interval"][0] for each in gains],
            [each["interval"][1] - each["difference"] for each in gains],
        ]
        middles = [each["difference"] for each in gains]
        axes.errorbar(places, middles, yerr=bars, marker="o", capsize=3, label=name)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    axes.set_xlabel("texts without labels")
    axes.set_ylabel("closer to the teacher than dense (nats)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3)  # no bar lies below it
    save_picture(figure, path)
    return True
