"""`sentimoe explain`: why a model answers as it does, and which expert did what, as a page that opens anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .messages import Mistake, say
from .options import Delimiter, Encoding, LabelColumn, MapLabels, NoVerify, Strict, TextColumn, TrustRemoteCode
from .places import check_data, check_file, check_folder, check_model

if TYPE_CHECKING:
    from sentimoe import SentimentClassifier
    from sentimoe.inference import Engine

Option = typer.Option
NO_EXPERTS = (
    "note: {} has no experts: the report shows its errors, labels to check, which words made an answer, and how the "
    "texts are distributed; what experts read and are needed for takes a model with experts (train --method moe-gated)"
)


def explain(
    model: Annotated[str, typer.Argument(help="Run folder, or a ready model. With experts, the report shows more.")],
    data: Annotated[str, Option(help="A preset, folder or file with labels.")] = "tweets",
    output: Annotated[Path, Option(help="Folder for report.html, report.json and, of experts, trace.parquet.")] = Path(
        "report"
    ),
    split: Annotated[str | None, Option(help="Presets and folders only: train, validation or test. [test]")] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    map_labels: MapLabels = None,
    strict: Strict = False,
    dense: Annotated[
        str | None, Option(help="Run folder of the dense model, or a ready one: do the experts help beside it?")
    ] = None,
    full: Annotated[bool, Option("--full", help="All texts and larger samples: minutes in place of one.")] = False,
    limit: Annotated[
        int | None,
        Option(help="Only that many texts, chosen at random. [500, fewer of long ones; all with --full]", min=20),
    ] = None,
    shown: Annotated[int | None, Option(help="Texts explained one by one. [8; 40 with --full]", min=1, max=100)] = None,
    record: Annotated[Path | None, Option(help="JSON file for the measures without any text, to keep.")] = None,
    trust_remote_code: TrustRemoteCode = False,
    no_verify: NoVerify = False,
    overwrite: Annotated[bool, Option(help="Replace a report that exists.")] = False,
) -> None:
    """Write a page about a model: its errors, labels to check, and the words that made each answer.

    Of a model with experts it also says whether they help, and what they specialise in.
    Of a file, it reads rows that have a text and a label; of a preset or a folder, one split. Long texts are cut.
    """
    check_folder(output)
    if (output / "report.html").exists() and not overwrite:
        raise Mistake(f"{output} holds a report already; choose another folder or add --overwrite")
    if record is not None:
        check_folder(record.parent)
        record.parent.mkdir(parents=True, exist_ok=True)
        check_file(record, (".json",), overwrite)
        if record.resolve() == (output / "report.json").resolve():
            raise Mistake(f"--record {record} is the report's own JSON, which holds texts; give another file")
    check_model(model, dense)
    check_data(data)

    from dataclasses import replace

    from sentimoe.errors import ConfigError
    from sentimoe.explain.findings import find, without_texts
    from sentimoe.explain.report import write_report
    from sentimoe.explain.sizes import FULL, first_page
    from sentimoe.explain.summary import answer
    from sentimoe.inference import keep_few_kernels, return_freed_memory
    from sentimoe.records import write_json
    from sentimoe.upcycle import moe_layers

    from .labelled import read_labelled
    from .models import model_name
    from .seen import seen_among, seen_warning
    from .show import prepare_process
    from .stream import counted

    prepare_process()
    keep_few_kernels()
    classifier, engine = _load(model, trust_remote_code, not no_verify)
    if classifier.domains:
        raise ConfigError(f"{model} has added domains, and these are chosen for whole texts; see sentimoe info {model}")
    if classifier.model is None:
        raise ConfigError(
            f"{model} is exported or compressed, and so cannot be explained; give the run folder that it was made from"
        )
    if not moe_layers(classifier.model):
        if dense is not None:
            raise ConfigError(f"--dense stands beside a model with experts, and {model} has none; leave it out")
        say(NO_EXPERTS.format(model))
    labelled = read_labelled(
        data, split, text_column, label_column, delimiter, encoding, strict, None, map_labels, model=str(model)
    )
    dataset = labelled.dataset.with_labels_of(classifier.label_names)
    for warning in dataset.warnings:
        say(f"warning: {warning}")
    whole = dataset.splits[labelled.split]
    count, sizes = (len(whole), FULL) if full else first_page(engine, whole)
    part = whole.sample(limit or count)
    if (seen := seen_among(classifier.seen_texts, part.texts)).any():
        say(f"warning: {seen_warning('the model', seen, 'so it looks better than it is')}")
    numbers = [labelled.numbers[place] for place in whole.places(limit or count)]
    beside = None if dense is None else _load(dense, trust_remote_code, not no_verify)
    if beside is not None and beside[0].model is None:
        raise ConfigError(
            f"--dense {dense} is exported, compressed, or has added domains; give the run folder of the dense model"
        )
    if beside is not None and moe_layers(beside[0].model):
        raise ConfigError(f"--dense {dense} has experts itself; give the dense model that {model} was made from")
    if beside is not None and sorted(beside[0].label_names) != sorted(classifier.label_names):
        raise ConfigError(f"--dense {dense} answers {beside[0].label_names}, {model} answers {classifier.label_names}")
    output.mkdir(parents=True, exist_ok=True)
    with counted(len(part), "reading") as update:

        def passed(parts):
            for part in parts:
                update(len(part.probabilities), "reading")
                yield part
                return_freed_memory()

        found = find(
            engine,
            classifier.model,
            replace(dataset, splits={labelled.split: part}),
            labelled.split,
            numbers=numbers,
            trace_path=output / "trace.parquet",
            dense=None if beside is None else beside[1],
            sizes=sizes if shown is None else replace(sizes, shown=shown),
            name=model_name(model),
            progress=lambda line: update(0, line),
            passed=passed,
        )
    if not moe_layers(classifier.model):
        (output / "trace.parquet").unlink(missing_ok=True)  # of a model that another report was about
    said = answer(found)
    typer.echo(f"{said['question']} {said['headline']}")
    if cut := found["truncated"]["texts"]:
        say(
            f"{cut} texts were read up to {engine.max_length} tokens; `evaluate` reads all of them, so its scores differ"
        )
    if len(part) < len(whole):
        more = "" if full else "; --full reads all, in minutes"
        say(f"{len(part):,} of {len(whole):,} texts, chosen at random{more}")
    typer.echo(f"written to {write_report(found, output)}")
    if record is not None:
        write_json(record, without_texts(found))


def _load(model: str, trust_remote_code: bool, verify: bool) -> tuple[SentimentClassifier, Engine]:
    import torch

    from sentimoe import SentimentClassifier

    # small batches take less memory and, on a processor, no more time
    tokens = 8192 if torch.cuda.is_available() else 2048
    classifier = SentimentClassifier.from_pretrained(
        model, long_texts="truncate", tokens_per_batch=tokens, trust_remote_code=trust_remote_code, verify=verify
    )
    return classifier, cast("Engine", classifier.engine)
