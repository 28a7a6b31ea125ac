"""`sentimoe suspects`: labels of a file that are probably wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .messages import say
from .options import Delimiter, Encoding, LabelColumn, NoVerify, Strict, TextColumn, TrustRemoteCode
from .places import WRITTEN, check_data, check_file, check_standard_output

Option = typer.Option


def suspects(
    data: Annotated[str, Option(help="A file with a text and a label in each row, or a preset, folder or hub id.")],
    split: Annotated[
        str | None, Option(help="Of a preset, folder or hub id: train, validation or test. [train]")
    ] = None,
    output: Annotated[
        Path | None, Option(help="CSV, JSONL, Parquet or .xlsx file to write, the most suspicious row first.")
    ] = None,
    overwrite: Annotated[bool, Option(help="Replace an output file that exists.")] = False,
    model: Annotated[
        str, Option(help="Backbone that reads the texts; it is not trained: a short name, a folder or a hub id.")
    ] = "all-MiniLM-L6-v2",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    strict: Strict = False,
    trust_remote_code: TrustRemoteCode = False,
    no_verify: NoVerify = False,
) -> None:
    """List the rows whose label is probably wrong, for a person to check.

    Each row is judged by a simple classifier that was fitted on other rows (confident learning, out of fold).
    """
    check_standard_output()
    check_data(data)
    if output is not None:
        check_file(output, WRITTEN, overwrite)
    from collections import Counter

    from sentimoe.data import write_table
    from sentimoe.training import label_errors

    from .labelled import read_labelled
    from .show import prepare_process, print_tables, suspects_table
    from .stream import counted

    prepare_process()
    given = read_labelled(data, split, text_column, label_column, delimiter, encoding, strict, usual_split="train")
    for warning in given.dataset.warnings:
        say(f"warning: {warning}")
    part = given.part
    labels = [given.dataset.label_names[index] for index in part.labels]
    with counted(len(labels), "reading") as update:
        found = label_errors(
            part.texts,
            labels,
            model=model,
            progress=lambda count: update(count, "reading"),
            trust_remote_code=trust_remote_code,
            verify=not no_verify,
        )
    found["row"] = [given.numbers[row] for row in found["row"]]
    print_tables(suspects_table(found.head(10)))
    if found.attrs["agreement"] < 0.5:
        typer.echo(
            f"the classifier that judges agrees with {found.attrs['agreement']:.0%} of the labels, so their number "
            f"({len(found)} of {len(labels)}) says little: look at the first rows"
        )
    else:
        typer.echo(f"{len(found)} of {len(labels)} labels ({len(found) / len(labels):.1%}) may be wrong")
    for (label, suggested), count in Counter(zip(found["label"], found["suggested"], strict=True)).most_common(5):
        typer.echo(f"  {count} times {label!r}, where {suggested!r} is likelier")
    if output is not None:
        write_table(found, output, overwrite)
        typer.echo(f"written to {output}")
