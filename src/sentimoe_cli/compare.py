"""`sentimoe compare`: two models on the same labelled texts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .messages import say
from .options import (
    AsJson,
    Delimiter,
    Encoding,
    LabelColumn,
    MapLabels,
    NoVerify,
    Precision,
    Strict,
    TextColumn,
    TrustRemoteCode,
)
from .places import check_data, check_model, check_standard_output

Option = typer.Option


def compare(
    model_a: Annotated[str, typer.Argument(help="Run folder or any saved classifier.")],
    model_b: Annotated[str, typer.Argument(help="Another one, with the same labels.")],
    data: Annotated[str, Option(help="A preset, folder or file with labels.")] = "tweets",
    split: Annotated[str | None, Option(help="Presets and folders only: train, validation or test. [test]")] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    map_labels: MapLabels = None,
    strict: Strict = False,
    precision: Precision = "auto",
    trust_remote_code: TrustRemoteCode = False,
    no_verify: NoVerify = False,
    as_json: AsJson = False,
) -> None:
    """Whether two models differ on the same texts: paired tests, which labels change, and examples."""
    check_standard_output()
    check_model(model_a, model_b)
    check_data(data)
    import numpy as np

    from sentimoe.errors import ConfigError
    from sentimoe.evaluation import compare_predictions, ordinal_metrics, predicted_labels

    from .labelled import read_labelled
    from .models import load_model
    from .seen import seen_among, seen_warning
    from .show import comparison_tables, prepare_process, print_json, print_tables
    from .stream import predictions_with_bar

    prepare_process()
    found = read_labelled(data, split, text_column, label_column, delimiter, encoding, strict, None, map_labels)
    dataset, texts = found.dataset, found.part.texts
    names: list[str] = []
    answers, seen = [], np.zeros(len(texts), dtype=bool)
    for name in (model_a, model_b):
        classifier = load_model(name, None, (), "calibrated", "", trust_remote_code, not no_verify, precision=precision)
        if not names:
            names, dataset = classifier.label_names, dataset.with_labels_of(classifier.label_names)
            ordered = classifier.ordinal
        if sorted(classifier.label_names) != sorted(names):
            raise ConfigError(f"{model_b} has the labels {classifier.label_names}, {model_a} {names}; they must agree")
        if classifier.seen_texts is None:
            say(f"warning: {name} does not say which texts it was trained on; some of these may be among them")
        if (known := seen_among(classifier.seen_texts, texts)).any():
            say(f"warning: {seen_warning(name, known)}")
        seen |= known
        columns = [classifier.label_names.index(label) for label in names]
        answers.append(predictions_with_bar(classifier.engine, texts).probabilities[:, columns])
    for warning in dataset.warnings:
        say(f"warning: {warning}")
    labels = np.asarray(dataset.splits[found.split].labels)
    a, b = answers
    comparison = compare_predictions(labels, a, b, names, ordered=ordered)
    if seen.any() and not seen.all():
        new = (labels[~seen], a[~seen], b[~seen])
        comparison["unseen"] = compare_predictions(*new, names, examples=0, ordered=ordered)
    if ordered:
        chosen = [predicted_labels(each) for each in (a, b)]
        comparison["ordinal"] = [ordinal_metrics(labels, each, len(names)) for each in chosen]
    if as_json:
        print_json({"a": model_a, "b": model_b, "data": dataset.name, "sha256": dataset.sha256, **comparison})
        return
    true = [names[label] for label in labels]
    print_tables(*comparison_tables(comparison, texts, true, f"a: {model_a}, b: {model_b}"))
    if "unseen" in comparison:
        which = "texts that neither is known to have seen in training"
        print_tables(comparison_tables(comparison["unseen"], texts, true, which)[0])
    typer.echo(_verdict(comparison.get("unseen", comparison), model_a, model_b))


def _verdict(comparison: dict[str, Any], model_a: str, model_b: str) -> str:
    row = comparison["f1_weighted"]
    low, high = row["interval"]
    spread = f"weighted F1 {row['difference']:+.4f}, 95% interval {low:+.4f} to {high:+.4f}, on {comparison['n']} texts"
    if row["distinguishable"]:
        return f"{model_a if low > 0 else model_b} is better (a - b: {spread})"
    return f"no difference is shown (a - b: {spread})"
