"""`sentimoe predict`: label and probabilities for texts given as arguments, on standard input or in a file."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sentimoe_ready import DEFAULT, facts, ready_models

from .few import label_few
from .many import MAX_REJECTED, check_lines, label_many, lines_as_file
from .messages import Mistake, say
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
from .places import check_model

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
    part_rows: Annotated[
        int | None,
        Option(
            help="Rows that are labelled and written at a time. A stopped run repeats one or two such parts. [16,384]",
            min=1,
        ),
    ] = None,
    max_characters: Annotated[
        int | None, Option(help="Reject longer texts. [1,000,000 where the output is a folder or file]", min=1)
    ] = None,
    max_rejected: Annotated[
        float | None, Option(help="Share of the rows that may be rejected. [0.01]", min=0, max=1)
    ] = None,
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
    bulk = not texts and output is not None and output.suffix.lower() != ".xlsx" and method is None
    from_stdin = bulk and not inputs
    on_ray = {"--ray-address": ray_address, "--ray-actors": ray_actors, "--ray-gpus": ray_gpus}
    if run_on == "local" and (unused := [name for name, value in on_ray.items() if value]):
        raise Mistake(f"{unused[0]} is for --engine ray")
    cluster = {"address": ray_address, "actors": ray_actors, "gpus": ray_gpus} if run_on == "ray" else None
    settings: dict[str, Any] = {"long_texts": long_texts, "precision": precision, "backend": backend}
    settings |= {"num_experts_per_tok": experts_per_token, "max_disagreement": max_disagreement}
    settings |= {} if domain is None else {"domain": domain}
    if bulk and output is not None:
        check_model(model)
        if note is not None:
            say(f"note: {note}")
        if from_stdin:
            check_lines(text_column, delimiter, encoding)
        with lines_as_file(sys.stdin.buffer, encoding) if from_stdin else nullcontext() as lines:
            label_many(
                model, inputs or [str(lines)], output, settings, kind=kind, text_column=text_column,
                delimiter=delimiter, encoding="utf-8" if from_stdin else encoding, limit=limit, part_rows=part_rows, max_characters=max_characters,
                max_rejected=MAX_REJECTED if max_rejected is None else max_rejected, all_answers=all_answers, probabilities=probabilities, overwrite=overwrite, dry_run=dry_run,
                doubtful=doubtful, trust_remote_code=trust_remote_code, verify=not no_verify, cluster=cluster,
            )  # fmt: skip
        return
    only_many: dict[str, Any] = {
        "--format": kind,
        "--limit": limit,
        "--part-rows": part_rows,
        "--max-characters": max_characters,
        "--max-rejected": max_rejected is not None,
        "--dry-run": dry_run or None,
        "--engine ray": cluster,
        "a second --input": inputs[1:] if inputs else None,
    }
    if given := [name for name, value in only_many.items() if value]:
        raise Mistake(
            f"{given[0]} is for files that become a folder or a .csv, .jsonl or .parquet file: give --input and such an "
            "--output, without --method"
        )
    label_few(
        model, texts, Path(inputs[0]) if inputs else None, output, settings, note=note, method=method, labels=labels,
        mode=mode, text_column=text_column, delimiter=delimiter, encoding=encoding, all_answers=all_answers,
        probabilities=probabilities, overwrite=overwrite, doubtful=doubtful, trust_remote_code=trust_remote_code,
        verify=not no_verify,
    )  # fmt: skip


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
