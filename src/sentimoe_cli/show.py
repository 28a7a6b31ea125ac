"""How results are printed: tables for people, one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def prepare_process() -> None:
    """Keep transformers' progress bars and reports out of the way (errors and our own warnings stay), reuse memory."""
    from transformers.utils import logging

    from sentimoe.inference import keep_freed_memory

    keep_freed_memory()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def metrics_table(title: str, metrics: Mapping[str, Any]) -> Table:
    """Scores with their 95% intervals, then a row for every class."""
    table = Table(title=f"{title} ({metrics['n']} texts)")
    for heading in ("", "score", "95% interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    intervals = metrics.get("intervals", {})
    for name in ("accuracy", "f1_weighted", "f1_macro", "precision_weighted", "recall_weighted", "ece"):
        interval = intervals.get(name)
        value = metrics[name]
        table.add_row(
            name.replace("_", " "),
            "-" if value is None else f"{value:.4f}",
            "" if interval is None else f"{interval[0]:.4f} - {interval[1]:.4f}",
        )
    table.add_section()
    for name, scores in metrics["per_class"].items():
        table.add_row(f"F1 {name}", f"{scores['f1']:.4f}", f"{scores['support']} texts")
    return table


def confusion_table(metrics: Mapping[str, Any]) -> Table:
    """Rows are true classes, columns predicted ones."""
    names = list(metrics["per_class"])
    table = Table(title="confusion matrix (rows: true, columns: predicted)")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for name, row in zip(names, metrics["confusion_matrix"], strict=True):
        table.add_row(name, *map(str, row))
    return table


def print_tables(*tables: Table) -> None:
    """Print to standard output, as wide as the terminal or 100 columns."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=100)
    for table in tables:
        console.print(table)
