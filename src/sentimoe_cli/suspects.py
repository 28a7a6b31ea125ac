"""`sentimoe suspects`: labels of a file that are probably wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .messages import Mistake, say
from .options import Delimiter, Encoding, LabelColumn, NoVerify, Strict, TextColumn, TrustRemoteCode
from .places import WRITTEN, check_data, check_file, check_standard_output

Option = typer.Option


def suspects(
    data: Annotated[Path, Option(help="File with a text and a label in each row.")],
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
    if not data.is_file():
        raise Mistake(f"--data {data} is no file; give a file with a text and a label in each row")
    if output is not None:
        check_file(output, WRITTEN, overwrite)
    from collections import Counter

    from sentimoe.data import FileFormat, read_whole_file, write_table
    from sentimoe.training import label_errors

    from .show import prepare_process, print_tables, suspects_table
    from .stream import counted

    prepare_process()
    columns = {"text_column": text_column, "label_column": label_column}
    file = read_whole_file(data, **columns, file_format=FileFormat(encoding, delimiter), strict=strict)
    for warning in file.dataset.warnings:
        say(f"warning: {warning}")
    (part,) = file.dataset.splits.values()
    labels = [file.dataset.label_names[index] for index in part.labels]
    with counted(len(labels), "reading") as update:
        found = label_errors(
            part.texts,
            labels,
            model=model,
            progress=lambda count: update(count, "reading"),
            trust_remote_code=trust_remote_code,
            verify=not no_verify,
        )
    found["row"] = [file.numbers[row] for row in found["row"]]
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
