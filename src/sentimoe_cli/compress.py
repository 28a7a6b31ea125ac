"""`sentimoe compress`: a trained classifier made faster, with a certificate of how often its answers differ."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from .messages import Mistake, say
from .options import AsJson, Delimiter, Encoding, NoVerify, TextColumn, TrustRemoteCode
from .places import check_data, check_folder, check_model

Option = typer.Option


def compress(
    model: Annotated[Path, typer.Argument(help="Run folder or any saved classifier.")],
    texts: Annotated[
        str,
        Option(help="File of texts like those that the model will read, without labels; or a preset, such as tweets."),
    ],
    output: Annotated[Path, Option(help="Folder to write: a new or an empty one.")],
    max_disagreement: Annotated[
        float, Option(help="Largest share of texts whose label may differ from the original's.", min=0.0001, max=0.5)
    ] = 0.01,
    text_column: TextColumn = None,
    label_column: Annotated[
        str | None, Option(help="Column of labels, where some are known: compares the F1 of both models too.")
    ] = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    minutes: Annotated[float, Option(help="About how many minutes the search may take.", min=0.1)] = 10.0,
    no_exits: Annotated[bool, Option("--no-exits", help="No early exits: all layers read every text.")] = False,
    no_int8: Annotated[
        bool, Option("--no-int8", help="No rounding to 8 bits: bfloat16 (float32 on older processors).")
    ] = False,
    seed: Annotated[int, Option(help="Seed for dividing the texts and training the exits.", min=0)] = 0,
    trust_remote_code: TrustRemoteCode = False,
    no_verify: NoVerify = False,
    as_json: AsJson = False,
) -> None:
    """Make a classifier faster on this processor, and certify how many labels change (an upper bound with 95% confidence)."""
    check_folder(output)
    if output.is_dir() and any(output.iterdir()):
        raise Mistake(f"{output} is not empty; choose another folder")
    if no_exits and no_int8:
        raise Mistake("--no-exits and --no-int8 leave nothing to try; leave one out")
    check_model(model)
    check_data(texts)
    for package in ("openvino", *(() if no_int8 else ("nncf",))):
        if find_spec(package) is None:
            raise Mistake(f"compress needs {package}: pip install 'sentimoe[compress]'")
    from sentimoe import SentimentClassifier
    from sentimoe.compression import certificate_lines
    from sentimoe.data import PRESETS, labels_of, load_dataset, read_texts

    from .models import usual_format
    from .show import prepare_process, print_json

    prepare_process()
    labels: list[Any] | None = None
    preset = texts in PRESETS and not Path(texts).exists()
    if preset:
        dataset = load_dataset(texts)
        rows = dataset.splits["train"].texts
    else:
        frame, rows = read_texts(Path(texts), text_column, usual_format(str(model), encoding, delimiter))
        labels = None if label_column is None else labels_of(frame, texts, label_column)
    classifier = SentimentClassifier.from_pretrained(
        model, precision="float32", trust_remote_code=trust_remote_code, verify=not no_verify
    )
    if preset and set(dataset.label_names) <= set(classifier.label_names):
        labels = [dataset.label_names[label] for label in dataset.splits["train"].labels]
    about = classifier.compress(
        rows, output, max_disagreement=max_disagreement, exits=not no_exits, int8=not no_int8, minutes=minutes,
        seed=seed, labels=labels, progress=say,
    )  # fmt: skip
    if as_json:
        print_json(about)
        return
    for line in certificate_lines(about):
        typer.echo(line)
    typer.echo(f"written to {output}")
