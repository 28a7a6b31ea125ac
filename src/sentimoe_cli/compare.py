"""`sentimoe compare`: two models on the same labelled texts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .messages import Mistake, say
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
from .places import FILE, check_data, check_model, check_standard_output

Option = typer.Option


def compare(
    model_a: Annotated[
        str, typer.Argument(help="Run folder, ready model or saved classifier, or a file that `predict` wrote.")
    ],
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
    """Whether two models differ on the same texts: paired tests, which labels change, and examples.

    A file of answers must have the rows of the data, in the same order.
    """
    check_standard_output()
    check_model(*(name for name in (model_a, model_b) if not FILE.search(name)))
    check_data(data, model_a, model_b)
    if data in (model_a, model_b):
        raise Mistake(f"{data} is the labelled data; give a model, or a file of answers that predict wrote")
    import numpy as np

    from sentimoe.evaluation import compare_predictions, ordinal_metrics, predicted_labels

    from .labelled import read_labelled
    from .models import usual_format
    from .show import comparison_tables, prepare_process, print_json, print_tables
    from .sides import FileSide, ModelSide, names_of

    prepare_process()
    given = (model_a, model_b)
    model = next((name for name in given if not FILE.search(name)), None)
    options = (text_column, label_column, delimiter, encoding, strict, None, map_labels)
    found = read_labelled(data, split, *options, model=model)
    texts = found.part.texts
    sides: list[FileSide | ModelSide] = [
        FileSide.read(name, found, text_column, usual_format(model, None, None).columns[0])
        if FILE.search(name)
        else ModelSide.load(name, trust_remote_code, not no_verify, precision)
        for name in given
    ]
    names = names_of(sides, given, found.dataset.label_names)
    dataset = found.dataset.with_labels_of(names)
    ordered = any(isinstance(side, ModelSide) and side.classifier.ordinal for side in sides)
    seen = sides[0].seen(texts) | sides[1].seen(texts)
    a, b = (side.probabilities(texts, names) for side in sides)
    for warning in dataset.warnings:
        say(f"warning: {warning}")
    labels = np.asarray(dataset.splits[found.split].labels)
    comparison = compare_predictions(labels, a, b, names, ordered=ordered)
    if seen.any() and not seen.all():
        new = (labels[~seen], a[~seen], b[~seen])
        comparison["unseen"] = compare_predictions(*new, names, examples=0, ordered=ordered)
    if ordered:
        first, second = (predicted_labels(each) for each in (a, b))
        both = (first >= 0) & (second >= 0)
        own = [ordinal_metrics(labels[both], each[both], len(names)) for each in (first, second)] if both.any() else []
        comparison["ordinal"] = own
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
    chance = comparison["mcnemar"]["p_value"]  # exact, where few texts make the interval too narrow
    spread += f"; McNemar's p {chance:.2g}"
    if row["distinguishable"] and chance < 0.05:
        return f"{model_a if low > 0 else model_b} is better (a - b: {spread})"
    return f"no difference is shown (a - b: {spread})"
