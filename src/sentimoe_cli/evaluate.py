"""`sentimoe evaluate`: how good a trained model is on labelled texts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .messages import say
from .options import (
    AsJson,
    Backend,
    ExpertsPerToken,
    LabelColumn,
    LongTexts,
    Mode,
    NoVerify,
    Precision,
    TextColumn,
    TrustRemoteCode,
)
from .places import check_model, check_standard_output

Option = typer.Option


def evaluate(
    model: Annotated[str, typer.Argument(help="Run folder or any saved classifier; a language model for zero-shot.")],
    data: Annotated[str, Option(help="A preset, folder or file with labels.")] = "tweets",
    method: Annotated[
        str | None, Option(help="zero-shot: ask a language model that was not trained. [as the run folder was trained]")
    ] = None,
    mode: Mode = "calibrated",
    limit: Annotated[int | None, Option(help="Only that many texts, chosen at random.", min=1)] = None,
    split: Annotated[str | None, Option(help="Of a preset or folder: train, validation or test. [test]")] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    long_texts: LongTexts = "windows",
    precision: Precision = "auto",
    backend: Backend = "torch",
    experts_per_token: ExpertsPerToken = None,
    trust_remote_code: TrustRemoteCode = False,
    no_verify: NoVerify = False,
    as_json: AsJson = False,
) -> None:
    """Accuracy, precision, recall, F1, calibration and 95% bootstrap intervals.

    Every row of a file is scored; of a preset or a folder one split.
    """
    check_standard_output()
    if method is None:
        check_model(model)
    from sentimoe.data import PRESETS, WHOLE, absence_warnings, load_dataset, read_whole_file
    from sentimoe.errors import ConfigError, DataError
    from sentimoe.evaluation import evaluate_predictions
    from sentimoe.methods import ZeroShot

    from .models import load_model, was_trained_on
    from .show import confusion_table, metrics_table, prepare_process, print_json, print_tables
    from .stream import predictions_with_bar

    prepare_process()
    whole = data not in PRESETS and os.path.isfile(os.path.expanduser(data))
    if whole and split is not None:
        raise ConfigError(f"{data} is one file, and every row of it is scored; --split is for presets and folders")
    dataset = (read_whole_file if whole else load_dataset)(data, text_column=text_column, label_column=label_column)
    split = WHOLE if whole else split or "test"
    if split not in dataset.splits:
        raise DataError(f"{data} has no split {split!r}; it has {', '.join(dataset.splits)}")
    settings = {"long_texts": long_texts, "backend": backend, "num_experts_per_tok": experts_per_token}
    name = Path(data).name
    classifier = load_model(
        model, method, dataset.label_names, mode, name, precision, trust_remote_code, not no_verify, **settings
    )
    dataset = dataset.with_labels_of(classifier.label_names)
    warnings = list(dataset.warnings)
    if whole:
        warnings += absence_warnings(dataset.label_names, dataset.splits)
        if was_trained_on(model, data):
            warnings.append(f"the model was trained on rows of {data}; scores on held-out ones are in its metrics.json")
    part = dataset.splits[split] if limit is None else dataset.splits[split].sample(limit)
    predictions = predictions_with_bar(classifier.engine, part.texts)
    metrics = evaluate_predictions(part.labels, predictions.probabilities, dataset.label_names)
    metrics |= {"data": dataset.name, "split": split, "sha256": dataset.sha256}
    metrics |= {"n_truncated": len(predictions.truncated), "warnings": warnings}
    if isinstance(classifier.engine, ZeroShot):
        metrics["off_label"] = dict(predictions.off_label.most_common())
    for warning in warnings:
        say(f"warning: {warning}")
    if as_json:
        print_json(metrics)
    else:
        print_tables(metrics_table(f"{dataset.name}, {split}", metrics), confusion_table(metrics))
        for answer, count in list(metrics.get("off_label", {}).items())[:10]:
            typer.echo(f"off-label, {count} times: {answer!r}")
