"""`sentimoe predict`: label and probabilities for texts given as arguments, on standard input or in a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import pandas as pd

Option = typer.Option
WRITERS = {
    ".csv": lambda frame, path: frame.to_csv(path, index=False),
    ".jsonl": lambda frame, path: path.write_text(_lines(frame), encoding="utf-8"),
    ".parquet": lambda frame, path: frame.to_parquet(path, index=False),
}


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

    from sentimoe.data import clean_text, read_texts
    from sentimoe.errors import ConfigError

    from .models import load_model
    from .show import prepare_process
    from .stream import probabilities_with_bar

    prepare_process()
    if texts and input_file:
        raise ConfigError("give texts as arguments or --input FILE, not both")
    if output is not None and output.suffix not in WRITERS:
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
        frame, column = read_texts(input_file, text_column)
    else:
        given = texts or _lines_of(sys.stdin.buffer.read().decode("utf-8", "replace"))
        frame, column = pd.DataFrame({"text": pd.Series(map(clean_text, given), dtype=object)}), "text"
    probabilities = probabilities_with_bar(classifier.engine, frame[column].tolist())
    cut = classifier.engine.truncated_rows
    if cut:
        typer.echo(f"warning: {len(cut)} texts were cut at {classifier.engine.max_length} tokens", err=True)
    frame = with_predictions(frame, classifier, probabilities)
    if long_texts == "truncate":
        frame["truncated"] = pd.Series(range(len(frame))).isin(cut).to_numpy()
    if output is None:
        typer.echo(_lines(frame), nl=False)
    else:
        WRITERS[output.suffix](frame, output)
        typer.echo(f"{len(frame)} row{'s' * (len(frame) != 1)} written to {output}", err=True)


def _lines_of(text: str) -> list[str]:
    """Lines as `wc -l` and `paste` count them: a text may hold other characters that end a line elsewhere."""
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def with_predictions(frame: pd.DataFrame, classifier, probabilities) -> pd.DataFrame:
    """The frame with `label`, `score` and `prob_CLASS` columns; columns in their way become `input_NAME`."""
    import pandas as pd

    from sentimoe.classifier import answers

    found = answers(probabilities, classifier.classes_)
    added = {
        "label": pd.Series([answer["label"] for answer in found], dtype=object, index=frame.index),
        "score": [answer["score"] for answer in found],
        **{f"prob_{name}": probabilities[:, index] for index, name in enumerate(classifier.label_names)},
    }
    names, taken = {}, {*frame.columns, *added}
    for name in added:
        if name in frame.columns:
            names[name] = name
            while names[name] in taken:
                names[name] = f"input_{names[name]}"
            taken.add(names[name])
    return frame.rename(columns=names).assign(**added)


def _lines(frame: pd.DataFrame) -> str:
    """JSON lines; what is missing is null."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
