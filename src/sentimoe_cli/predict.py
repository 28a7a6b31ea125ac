"""`sentimoe predict`: label and probabilities for texts given as arguments, on standard input or in a file."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sentimoe_ready import DEFAULT, facts, ready_models

from .many import FEWER_EXPERTS, FILES, NO_THRESHOLD, label_many, lines_as_file
from .messages import Mistake, say, takes_unicode
from .options import (
    Backend,
    Delimiter,
    Domain,
    Encoding,
    ExpertsPerToken,
    LongTexts,
    MaxDisagreement,
    Mode,
    NoVerify,
    Precision,
    TextColumn,
    TrustRemoteCode,
)
from .places import WRITTEN, check_file, check_model, check_standard_output

Option = typer.Option


def predict(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; without any, each line of standard input is one.")
    ] = None,
    model: Annotated[
        str | None,
        Option(
            help="Folder of a classifier, a ready model (see `sentimoe models`) or a hub id; a language model for zero-shot. [sentiment]",
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        Option(
            "--input",
            help="File with a column of texts: CSV, TSV, JSON, JSONL, Parquet or a spreadsheet; also folders and quoted patterns (repeatable).",
        ),
    ] = None,
    text_column: TextColumn = None,
    output: Annotated[
        Path | None,
        Option(
            help="CSV, JSONL, Parquet or .xlsx file to write, or a folder for any number of rows; without it, JSON lines go to standard output."
        ),
    ] = None,
    kind: Annotated[
        Literal["csv", "jsonl", "parquet"] | None,
        Option("--format", help="Of the files in a folder. [that of the first input]"),
    ] = None,
    overwrite: Annotated[bool, Option(help="Replace an output file that exists.")] = False,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    all_answers: Annotated[
        bool, Option("--all-answers", help="Label doubtful texts too: ignore the threshold of the model.")
    ] = False,
    probabilities: Annotated[
        bool, Option("--probabilities", help="Write the probability of each class too, as `prob_CLASS`.")
    ] = False,
    doubtful: Annotated[
        Path | None, Option(help="File for the doubtful rows, the most doubtful first, for review.")
    ] = None,
    limit: Annotated[int | None, Option(help="Label only that many rows.", min=1)] = None,
    max_characters: Annotated[int | None, Option(help="Reject longer texts.", min=1)] = None,
    max_rejected: Annotated[float, Option(help="Share of the rows that may be rejected.", min=0, max=1)] = 0.01,
    dry_run: Annotated[bool, Option("--dry-run", help="Label 1,000 rows and say what the whole will take.")] = False,
    run_on: Annotated[
        Literal["local", "ray"],
        Option("--engine", help="Who labels files: this process, or the actors of a Ray cluster."),
    ] = "local",
    ray_address: Annotated[
        str | None, Option(help="Of a running cluster, such as auto; without it, one is started on this machine.")
    ] = None,
    ray_actors: Annotated[
        int | None, Option(help="Processes that hold the model. [one per processor or GPU of the cluster]", min=1)
    ] = None,
    ray_gpus: Annotated[float, Option(help="GPUs of each actor, such as 1 or 0.5.", min=0, max=1)] = 0.0,
    long_texts: LongTexts = "windows",
    precision: Precision = "auto",
    backend: Backend = "torch",
    experts_per_token: ExpertsPerToken = None,
    max_disagreement: MaxDisagreement = None,
    domain: Domain = None,
    method: Annotated[
        str | None, Option(help="zero-shot: ask a language model that was not trained, with --labels.")
    ] = None,
    labels: Annotated[str | None, Option(help="Zero-shot only: comma-separated labels to choose from.")] = None,
    mode: Mode = "calibrated",
    trust_remote_code: TrustRemoteCode = False,
    no_verify: NoVerify = False,
) -> None:
    """Label texts: every row of the input is written with `label`, `score` and `reason` beside its own columns.

    With `--probabilities`, `prob_CLASS` holds the probability of each class. A column of the input that has one of these names is kept as `input_NAME` (`input_input_NAME` if that is taken). Blank texts get no label. With
    `--long-texts truncate` a column `truncated` marks the texts whose end was not read. A model with a threshold
    (`evaluate --target-accuracy --save`) gives doubtful texts no label; `guess` holds what it would have been. A compressed model adds `layers`, one with added domains `domain` and `domain_score`.

    A folder as --output takes any number of rows, in parts: a run that was stopped goes on with the same command, and `reason` says why a row has no label.
    """
    if model is None and method is not None:
        raise Mistake(f"--method {method} asks a language model: --model names it")
    model, texts, note = _model_and_texts(model, texts or [])
    if texts and inputs:
        raise Mistake("give texts as arguments or --input FILE, not both")
    if labels and method is None:
        raise Mistake("--labels are the answers that a language model may give; add --method zero-shot")
    if mode != "calibrated" and method is None:
        raise Mistake(f"--mode {mode} is of language models that are asked; add --method zero-shot")
    from_stdin = not texts and not inputs and output is not None and output.suffix.lower() not in FILES
    bulk = (inputs or from_stdin) and output is not None and output.suffix.lower() != ".xlsx" and method is None
    on_ray = {"--ray-address": ray_address, "--ray-actors": ray_actors, "--ray-gpus": ray_gpus}
    if run_on == "local" and (unused := [name for name, value in on_ray.items() if value]):
        raise Mistake(f"{unused[0]} is for --engine ray")
    cluster = {"address": ray_address, "actors": ray_actors, "gpus": ray_gpus} if run_on == "ray" else None
    if bulk and output is not None:
        check_model(model)
        if note is not None:
            say(f"note: {note}")
        settings: dict[str, Any] = {"long_texts": long_texts, "precision": precision, "backend": backend}
        settings |= {"num_experts_per_tok": experts_per_token, "max_disagreement": max_disagreement}
        settings |= {} if domain is None else {"domain": domain}
        if from_stdin and sys.stdin is None:
            raise Mistake("standard input is closed; give texts as arguments, or --input FILE")
        with lines_as_file(sys.stdin.buffer) if from_stdin else nullcontext() as lines:
            label_many(
                model, inputs or [str(lines)], output, settings, kind=kind, text_column=text_column,
                delimiter=delimiter, encoding="utf-8" if from_stdin else encoding, limit=limit, max_characters=max_characters,
                max_rejected=max_rejected, all_answers=all_answers, probabilities=probabilities, overwrite=overwrite, dry_run=dry_run,
                doubtful=doubtful, trust_remote_code=trust_remote_code, verify=not no_verify, cluster=cluster,
            )  # fmt: skip
        return
    given: dict[str, Any] = {
        "--format": kind,
        "--limit": limit,
        "--max-characters": max_characters,
        "--dry-run": dry_run or None,
        "--engine ray": cluster,
    }
    given["a second --input"] = inputs[1:] if inputs else None
    if many := [name for name, value in given.items() if value]:
        raise Mistake(
            f"{many[0]} is for files that become a folder or a .csv, .jsonl or .parquet file: give --input and such an "
            "--output, without --method"
        )
    input_file = Path(inputs[0]) if inputs else None
    if text_column is not None and input_file is None:
        raise Mistake("--text-column names a column of a file; add --input FILE")
    if not texts and input_file is None and sys.stdin is None:
        raise Mistake("standard input is closed; give texts as arguments, or --input FILE")
    if output is None:
        check_standard_output()
    else:
        check_file(output, WRITTEN, overwrite)
    if doubtful is not None:
        check_file(doubtful, WRITTEN, overwrite)
        if output is not None and doubtful.resolve() == output.resolve():
            raise Mistake(f"--output and --doubtful are both {output}; give two files")

    if method is None:
        check_model(model)
    if note is not None:
        say(f"note: {note}")
    import numpy as np
    import pandas as pd

    from sentimoe.data import FileFormat, json_lines, read_texts, write_table
    from sentimoe.data.predicted import STRING, made_up, named_domains, with_predictions
    from sentimoe.errors import ConfigError
    from sentimoe.model_folder import THRESHOLD, find_folder

    from .certificates import certificate_for, warn_of_drift
    from .models import load_model
    from .show import prepare_process
    from .stream import predictions_with_bar
    from .trial import try_writing

    prepare_process()
    if input_file is not None:
        frame, rows = read_texts(input_file, text_column, FileFormat(encoding, delimiter))
    else:
        rows = list(map(_decoded, texts)) or _lines_of_standard_input()
        frame = pd.DataFrame({"text": pd.Series(rows, dtype=STRING)})
    names = [label.strip() for label in labels.split(",")] if labels else []
    settings = {"long_texts": long_texts, "backend": backend, "num_experts_per_tok": experts_per_token}
    settings |= {"max_disagreement": max_disagreement, "domain": domain}
    if method is None:
        model = str(find_folder(model))
    classifier = load_model(model, method, names, mode, "", precision, trust_remote_code, not no_verify, **settings)
    engine, classes = classifier.engine, classifier.classes_.tolist()
    threshold = None
    if method is None and not all_answers and (Path(model) / THRESHOLD).exists():
        from sentimoe.evaluation import Threshold  # brings scipy and scikit-learn

        stored = Threshold.load(Path(model))
        threshold = None if stored is None else stored.value
    if threshold is not None and experts_per_token is not None:
        say(FEWER_EXPERTS)
    if doubtful is not None and threshold is None:
        raise ConfigError(NO_THRESHOLD.format(model))
    cut: list[int] | None = [] if long_texts == "truncate" else None
    certificate = certificate_for(model, max_disagreement, precision, long_texts) if method is None else None
    layers = None if certificate is None else np.zeros(len(rows), dtype=np.int64)
    invented = made_up(len(rows), engine.num_labels)
    unknown, nowhere = [None] * len(rows), None
    if classifier.domains:
        nowhere = (unknown, np.full(len(rows), np.nan))
    likely = with_predictions(frame, classes, invented, cut, threshold, layers, unknown, probabilities, nowhere)
    try_writing(likely, output)
    predictions = predictions_with_bar(engine, rows)
    if predictions.truncated:
        cut = predictions.truncated
        say(f"warning: {len(cut)} texts were cut at {engine.max_length} tokens")
    reasons = [
        None if answered else "no label" if method is not None and text.strip() else "blank"
        for text, answered in zip(rows, ~np.isnan(predictions.probabilities[:, 0]), strict=True)
    ]
    answered, layers = predictions.probabilities, predictions.layers
    told = named_domains(classifier.domains, predictions.domains, predictions.domain_scores)
    frame = with_predictions(frame, classes, answered, cut, threshold, layers, reasons, probabilities, told)
    if certificate is not None and layers is not None:
        warn_of_drift(certificate, layers)
    if threshold is not None:
        low = frame["reason"] == "doubtful"
        say(
            f"{len(frame) - int(frame['label'].isna().sum())} of {len(frame)} rows have a label; {int(low.sum())} are doubtful"
        )
    if output is None:
        sys.stdout.writelines(json_lines(frame, ascii_only=not takes_unicode(sys.stdout)))
    else:
        write_table(frame, output, overwrite)
        say(f"{len(frame)} row{'s' * (len(frame) != 1)} written to {output}")
    if doubtful is not None:
        from sentimoe.batch.review import review_queue

        write_table(review_queue(frame), doubtful, overwrite)
        say(f"{int(low.sum())} doubtful rows, of a score below {threshold:.3f}, written to {doubtful}")


def _model_and_texts(model: str | None, given: list[str]) -> tuple[str, list[str], str | None]:
    """The model, the texts among the arguments (a folder is never one), and what to say where no model was named.

    Raises Mistake.
    """
    note = None
    if model is None and given and os.path.isdir(given[0]):
        model, *given = given
        note = f"the folder {model} is read as the model; write --model {model}"
    elif model is None and given and os.sep in given[0] and not given[0].split()[1:]:
        raise Mistake(
            f"{given[0]!r} is no folder of a model; --model names one. If it is meant as a text, give it on standard input"
        )
    elif model is None:
        folder = ready_models()[DEFAULT]
        model, use = str(folder), facts(folder)["for"]
        note = f"the ready model {DEFAULT} answers, for {use}; --model names another (sentimoe models)"
    if folders := [text for text in given if os.path.isdir(text)]:
        raise Mistake(
            f"{folders[0]!r} is a folder, and the model is named already; if it is meant as a text, give it on standard input"
        )
    return model, given, note


def _decoded(argument: str) -> str:
    """An argument as UTF-8 also where the locale is C, in which Python keeps its bytes as surrogates."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return os.fsencode(argument).decode("utf-8", "replace")
    return argument


def _lines_of_standard_input() -> list[str]:
    """Lines as `wc -l` and `paste` count them: a text may hold other characters that end a line elsewhere."""
    if sys.stdin.isatty():
        say("reading texts, one per line; end with Ctrl-D")
    data = sys.stdin.buffer.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        say(f"warning: standard input is not UTF-8, first in line {line}; what cannot be read becomes U+FFFD")
        text = data.decode("utf-8-sig", "replace")
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]
