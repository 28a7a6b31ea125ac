"""`sentimoe predict`: label and probabilities for texts given as arguments, on standard input or in a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

Option = typer.Option


def predict(
    model: Annotated[str, typer.Argument(help="Run folder or any saved classifier; a language model for zero-shot.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; none: one per line of standard input.")] = None,
    input_file: Annotated[Path | None, Option("--input", help="CSV, JSONL or Parquet file with a text column.")] = None,
    text_column: Annotated[str | None, Option(help="Column of the texts. [text]")] = None,
    output: Annotated[
        Path | None, Option(help="CSV, JSONL or Parquet file to write; none: JSON lines on standard output.")
    ] = None,
    overwrite: Annotated[bool, Option(help="Replace an output file that exists.")] = False,
    long_texts: Annotated[
        str, Option(help="windows (all of a long text) or truncate (counted on standard error).")
    ] = "windows",
    precision: Annotated[str, Option(help="auto, bfloat16 or float32.")] = "auto",
    backend: Annotated[str, Option(help="torch or openvino.")] = "torch",
    experts_per_token: Annotated[
        int | None, Option(help="Experts that read each token: fewer is faster. [as it was trained]")
    ] = None,
    method: Annotated[
        str | None, Option(help="zero-shot: ask a language model that was not trained, with --labels.")
    ] = None,
    labels: Annotated[str | None, Option(help="Of zero-shot: the labels to choose from, with commas.")] = None,
    mode: Annotated[str, Option(help="Of zero-shot: calibrated, uncalibrated or generate.")] = "calibrated",
    trust_remote_code: Annotated[
        bool, Option("--trust-remote-code", help="Run the Python code that the model brings along.")
    ] = False,
) -> None:
    """A row for every row: `label`, `score` and `prob_CLASS` beside the input's own columns.

    A column of the input that has one of these names is kept as `input_NAME` (`input_input_NAME` if that is taken). Blank texts get no label. With
    `--long-texts truncate` a column `truncated` marks the texts whose end was not read.
    """
    import pandas as pd

    from sentimoe.data import WRITERS, clean_text, json_lines, read_texts, write_table
    from sentimoe.errors import ConfigError

    from .columns import STRING, made_up, try_writing, with_predictions
    from .models import load_model
    from .show import prepare_process
    from .stream import predictions_with_bar

    prepare_process()
    if texts and input_file:
        raise ConfigError("give texts as arguments or --input FILE, not both")
    if output is not None and output.suffix.lower() not in WRITERS:
        raise ConfigError(f"{output} must end in {', '.join(WRITERS)}")
    if output is not None and not output.parent.is_dir():
        raise ConfigError(f"{output} cannot be written: there is no folder {output.parent}; make it first")
    if output is not None and output.exists() and not overwrite:
        raise ConfigError(f"{output} exists; choose another file or add --overwrite")
    if labels and method is None:
        raise ConfigError("--labels are of language models that are asked; add --method zero-shot")
    names = [label.strip() for label in labels.split(",")] if labels else []
    settings = {"long_texts": long_texts, "backend": backend, "num_experts_per_tok": experts_per_token}
    classifier = load_model(model, method, names, mode, "", precision, trust_remote_code, **settings)
    if input_file is not None:
        frame, rows = read_texts(input_file, text_column)
    else:
        rows = [clean_text(text) for text in texts or _lines_of(sys.stdin.buffer.read().decode("utf-8-sig", "replace"))]
        frame = pd.DataFrame({"text": pd.Series(rows, dtype=STRING)})
    engine, classes = classifier.engine, classifier.classes_
    cut: list[int] | None = [] if long_texts == "truncate" else None
    try_writing(with_predictions(frame, classes, made_up(len(rows), engine.num_labels), cut), output)
    predictions = predictions_with_bar(engine, rows)
    if predictions.truncated:
        cut = predictions.truncated
        typer.echo(f"warning: {len(cut)} texts were cut at {engine.max_length} tokens", err=True)
    frame = with_predictions(frame, classes, predictions.probabilities, cut)
    if output is None:
        sys.stdout.writelines(json_lines(frame))
    else:
        write_table(frame, output)
        typer.echo(f"{len(frame)} row{'s' * (len(frame) != 1)} written to {output}", err=True)


def _lines_of(text: str) -> list[str]:
    """Lines as `wc -l` and `paste` count them: a text may hold other characters that end a line elsewhere."""
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]
