"""`sentimoe models`: what answers right after installation."""

from __future__ import annotations

from sentimoe_ready import DEFAULT, facts, ready_models

from .options import AsJson
from .places import check_standard_output


def models(as_json: AsJson = False) -> None:
    """List the ready models: what they are for, their labels, their training data, and their scores on test texts."""
    check_standard_output()
    from .show import print_json, print_tables

    known = {name: facts(folder) for name, folder in ready_models().items()}
    if as_json:
        print_json(known)
        return
    from rich.table import Table

    table = Table(title=f"ready models: sentimoe predict --model NAME (without --model: {DEFAULT})")
    for heading in ("name", "for", "labels", "trained on", "test texts", "accuracy", "macro F1"):
        table.add_column(heading, justify="right" if heading in ("test texts", "accuracy", "macro F1") else "left")
    for name, found in known.items():
        scores = found["scores"]
        row = (name, found["for"], ", ".join(map(str, found["labels"])), found["data"], f"{scores['n']:,}")
        table.add_row(*row, *(f"{scores[key]:.3f}" for key in ("accuracy", "f1_macro")))
    print_tables(table)
