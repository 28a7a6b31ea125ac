"""`sentimoe evaluate`: how good a trained model is on labelled texts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .messages import Mistake, say
from .options import (
    AsJson,
    Backend,
    Delimiter,
    Domain,
    Encoding,
    ExpertsPerToken,
    LabelColumn,
    LongTexts,
    MapLabels,
    MaxDisagreement,
    Mode,
    NoVerify,
    Precision,
    Strict,
    TextColumn,
    TrustRemoteCode,
)
from .places import check_data, check_folder, check_model, check_standard_output

if TYPE_CHECKING:
    from sentimoe import SentimentClassifier

Option = typer.Option


def evaluate(
    model: Annotated[
        str, typer.Argument(help="Run folder, ready model or any saved classifier; a language model for zero-shot.")
    ],
    data: Annotated[str, Option(help="A preset, folder or file with labels.")] = "tweets",
    method: Annotated[
        str | None, Option(help="zero-shot: ask a language model that was not trained. [as the run folder was trained]")
    ] = None,
    mode: Mode = "calibrated",
    limit: Annotated[int | None, Option(help="Only that many texts, chosen at random.", min=1)] = None,
    split: Annotated[str | None, Option(help="Presets and folders only: train, validation or test. [test]")] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    map_labels: MapLabels = None,
    strict: Strict = False,
    by: Annotated[str | None, Option(help="Column of a file: show the scores for each of its values too.")] = None,
    ordinal: Annotated[
        str | None,
        Option(
            help="Labels from lowest to highest, separated by commas: also show how far off answers are. [as it was trained]"
        ),
    ] = None,
    target_accuracy: Annotated[
        float | None, Option(help="Find the lowest confidence at which that share of answers is right, such as 0.95.")
    ] = None,
    save: Annotated[bool, Option("--save", help="Keep this threshold in the model folder, for `predict`.")] = False,
    long_texts: LongTexts = "windows",
    precision: Precision = "auto",
    backend: Backend = "torch",
    experts_per_token: ExpertsPerToken = None,
    max_disagreement: MaxDisagreement = None,
    domain: Domain = None,
    trust_remote_code: TrustRemoteCode = False,
    no_verify: NoVerify = False,
    as_json: AsJson = False,
) -> None:
    """Show accuracy, precision, recall, F1 and calibration, with 95% bootstrap intervals.

    Of a file, every row with a text and a label is scored; of a preset or a folder, one split.
    """
    check_standard_output()
    if save and target_accuracy is None:
        raise Mistake("--save keeps the threshold of --target-accuracy; give that too")
    otherwise: dict[str, Any] = {
        "--method": method,
        "--experts-per-token": experts_per_token,
        "--max-disagreement": max_disagreement,
        "--domain": domain,
        "--long-texts truncate": True if long_texts == "truncate" else None,
    }
    if save and (given := [name for name, value in otherwise.items() if value is not None]):
        raise Mistake(f"--save is for a trained model as `predict` runs it; leave out {' and '.join(given)}")
    if save:
        if not Path(model).is_dir():
            from sentimoe_ready import ready_models

            copied = f'SentimentClassifier.from_pretrained("{model}").save_pretrained("FOLDER")'
            ready = f". A ready model is copied into one in Python: {copied}" if model in ready_models() else ""
            raise Mistake(
                f"--save keeps the threshold in the folder of a model, and {model} is no folder here; give a run folder"
                f"{ready}"
            )
        check_folder(Path(model))
    if limit is not None and by is not None:
        raise Mistake("--limit takes texts at random and --by groups all of them; leave one out")
    if target_accuracy is not None and not 0 < target_accuracy < 1:
        raise Mistake(f"--target-accuracy {target_accuracy:g} must lie between 0 and 1, such as 0.95")
    if method is None:
        check_model(model)
    check_data(data)
    import numpy as np

    from sentimoe.data import absence_warnings
    from sentimoe.data.repeats import repeats
    from sentimoe.errors import DataError
    from sentimoe.evaluation import find_threshold, least_trials, predicted_labels, why_no_threshold
    from sentimoe.methods import ZeroShot
    from sentimoe.model_folder import find_folder

    from .certificates import certificate_for
    from .labelled import read_labelled
    from .models import load_model
    from .scores import scores
    from .seen import FEW_SEEN, seen_among, seen_warning
    from .show import (
        confusion_table,
        coverage_line,
        groups_table,
        metrics_table,
        most_frequent_line,
        prepare_process,
        print_json,
        print_tables,
    )
    from .stream import predictions_with_bar

    prepare_process()
    found = read_labelled(
        data, split, text_column, label_column, delimiter, encoding, strict, by, map_labels, model=model
    )
    dataset, split, whole = found.dataset, found.split, found.whole
    settings: dict[str, Any] = {"long_texts": long_texts, "backend": backend, "num_experts_per_tok": experts_per_token}
    settings |= {"domain": domain, "precision": precision, "max_disagreement": max_disagreement}
    options = (mode, Path(data).name, trust_remote_code, not no_verify)
    classifier = load_model(model, method, dataset.label_names, *options, **settings)
    if method is None:
        certificate_for(str(find_folder(model)), max_disagreement, precision, long_texts)
    dataset = dataset.with_labels_of(classifier.label_names)
    order = _order(ordinal, classifier)
    warnings = list(dataset.warnings)
    if whole:
        warnings += absence_warnings(dataset.label_names, dataset.splits)
    part = dataset.splits[split] if limit is None else dataset.splits[split].sample(limit)
    seen = seen_among(classifier.seen_texts, part.texts)
    new, known = ~seen, classifier.seen_texts is not None and classifier.seen_texts.complete
    if seen.any():
        warnings.append(seen_warning("the model", seen))
    if target_accuracy is not None:
        repeated = repeats(part.texts)
        if repeated.any():
            warnings.append(
                f"{repeated.sum()} of {len(repeated)} texts are repeats, which count once for the threshold"
            )
        new &= ~repeated
        if new.sum() < (least := least_trials(1 - target_accuracy)):
            raise DataError(
                f"{new.sum()} of the {len(new)} labelled texts are new to the model and no repeats, and even without an "
                f"error it takes {least} to promise an accuracy of {target_accuracy:g}; give more texts or a lower target"
            )
        if not known:
            warnings.append(
                "the model does not say which texts it was trained on; the threshold holds if these are not among them"
            )
    predictions = predictions_with_bar(classifier.engine, part.texts)
    probabilities, labels = predictions.probabilities, np.asarray(part.labels)
    metrics = scores(labels, probabilities, dataset.label_names, seen=seen, groups=found.groups, order=order)
    metrics |= {"data": dataset.name, "split": split, "sha256": dataset.sha256, "warnings": warnings}
    metrics |= {"n_truncated": len(predictions.truncated), "n_seen": int(seen.sum()) if known else None}
    if predictions.domains is not None:
        metrics["domains"] = {
            each: int((predictions.domains == place).sum()) for place, each in enumerate(classifier.domains)
        }
    if isinstance(classifier.engine, ZeroShot):
        metrics["off_label"] = dict(predictions.off_label.most_common())
    threshold = None
    confidence, right = probabilities.max(axis=1)[new], (predicted_labels(probabilities) == labels)[new]
    if target_accuracy is not None:
        threshold = find_threshold(confidence, right, target_accuracy)
        metrics["threshold"] = None if threshold is None else asdict(threshold)
    if save and threshold is not None:
        threshold.save(Path(model), dataset.name, dataset.sha256)
    for warning in warnings:
        say(f"warning: {warning}")
    if as_json:
        print_json(metrics)
    else:
        print_tables(metrics_table(f"{dataset.name}, {split}", metrics), confusion_table(metrics))
        typer.echo(most_frequent_line(metrics["most_frequent"]))
        typer.echo(coverage_line(metrics["risk_coverage"]))
        if "unseen" in metrics and seen.mean() > FEW_SEEN:
            print_tables(metrics_table(f"{dataset.name}, {split}, texts not seen in training", metrics["unseen"]))
        if found.groups is not None:
            print_tables(groups_table(f"{dataset.name} by {by}", metrics["groups"]))
        if "domains" in metrics:
            typer.echo(f"answered by {', '.join(f'{each}: {count}' for each, count in metrics['domains'].items())}")
        for answer, count in list(metrics.get("off_label", {}).items())[:10]:
            typer.echo(f"off-label, {count} times: {answer!r}")
    if target_accuracy is not None and threshold is None:
        why = why_no_threshold(confidence, right, target_accuracy)
        none = f"{why}. To review without a threshold, sort what `predict` writes by `score`"
        if save:
            raise DataError(f"{none}. Nothing is saved")
        say(none)
    elif threshold is not None and not as_json:
        typer.echo(f"{threshold}{'; saved' if save else ''}")


def _order(given: str | None, classifier: SentimentClassifier) -> list[str] | None:
    """The labels from lowest to highest: as given, or as the model was trained. Raises ConfigError."""
    from sentimoe.errors import ConfigError

    names = classifier.label_names
    if given is None:
        return names if classifier.ordinal else None
    order = [name.strip() for name in given.split(",")]
    if sorted(order) != sorted(names):
        raise ConfigError(f"--ordinal {given!r} must name every label once: {', '.join(names)}")
    return order
