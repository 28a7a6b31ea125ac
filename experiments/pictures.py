"""Pictures of one run as PNG: the confusion matrix and the reliability diagram.

The same input gives the same bytes with the same matplotlib and style: no date or version is written in the file.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike, NDArray

from sentimoe.errors import DataError
from sentimoe.records import written_aside


def confusion_picture(
    confusion: ArrayLike, label_names: Sequence[str], path: str | PathLike[str], title: str | None = None
) -> None:
    """Draw a confusion matrix: each cell shows its count and its share of the row, coloured by that share.

    Args:
        confusion: [C, C] counts, rows true, columns predicted.
        label_names: C names, by class index.
        path: PNG file to write; its folder must exist.
        title: above the picture.

    Raises:
        DataError: shapes that do not fit, or negative counts.
        OSError: the file cannot be written.
    """
    counts = np.asarray(confusion)
    num_classes = len(label_names)
    if counts.shape != (num_classes, num_classes) or num_classes == 0 or (counts < 0).any():
        raise DataError(
            f"confusion has shape {counts.shape} for {num_classes} label names; give non-negative counts, "
            "one row and one column per name"
        )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    side = 2.5 + 0.9 * num_classes
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, format=PercentFormatter(1), label="share of the true class", shrink=0.8)
    _write_cells(axes, counts, shares)
    axes.set_xticks(range(num_classes), literal(label_names), rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(num_classes), literal(label_names))
    axes.set(xlabel="predicted", ylabel="true", title=literal([title or ""])[0])
    save_picture(figure, path)


def literal(names: Sequence[str]) -> list[str]:
    """Names as matplotlib shows them: a dollar sign begins no formula."""
    return [name.replace("$", r"\$") for name in names]


def _write_cells(axes: Axes, counts: NDArray, shares: NDArray[np.float64]) -> None:
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        color = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{count:,}\n{share:.1%}", ha="center", va="center", color=color)


def save_picture(figure: Figure, path: str | PathLike[str], dpi: int = 150) -> None:
    """Write a PNG file, the same bytes for the same picture."""
    with written_aside(Path(path)) as partial:
        figure.savefig(partial, format="png", dpi=dpi, metadata={"Software": None})
