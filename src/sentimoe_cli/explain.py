"""`sentimoe explain`: which expert did what, as a page that opens anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .messages import Mistake
from .options import LabelColumn, NoVerify, TextColumn, TrustRemoteCode
from .places import check_data, check_file, check_folder, check_model

if TYPE_CHECKING:
    from sentimoe import SentimentClassifier
    from sentimoe.inference import Engine

Option = typer.Option


def explain(
    folder: Annotated[Path, typer.Argument(help="Run folder of a model with experts.")],
    data: Annotated[str, Option(help="A preset, folder or file with labels.")] = "tweets",
    out: Annotated[Path, Option(help="Folder to write report.html, report.json and trace.parquet to.")] = Path(
        "report"
    ),
    split: Annotated[str, Option(help="train, validation or test.")] = "test",
    dense: Annotated[
        Path | None, Option(help="Run folder of the dense model, to compare what both have learnt.")
    ] = None,
    shown: Annotated[int, Option(help="Texts explained one by one.", min=1, max=100)] = 40,
    limit: Annotated[int | None, Option(help="Only that many texts of the split, chosen at random.", min=20)] = None,
    record: Annotated[Path | None, Option(help="JSON file for the measures without any text, to keep.")] = None,
    trust_remote_code: TrustRemoteCode = False,
    no_verify: NoVerify = False,
    overwrite: Annotated[bool, Option(help="Replace a report that exists.")] = False,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Trace every token (long texts are cut), measure what the experts specialise in, and write one self-contained page."""
    check_folder(out)
    if (out / "report.html").exists() and not overwrite:
        raise Mistake(f"{out} holds a report already; choose another folder or add --overwrite")
    if record is not None:
        check_folder(record.parent)
        record.parent.mkdir(parents=True, exist_ok=True)
        check_file(record)
    check_model(folder, dense)
    check_data(data)

    from dataclasses import replace

    from sentimoe.data import load_dataset
    from sentimoe.errors import ConfigError, DataError
    from sentimoe.explain.findings import Sizes, find, without_texts
    from sentimoe.explain.report import write_report
    from sentimoe.inference import keep_few_kernels, return_freed_memory
    from sentimoe.records import write_json

    from .show import prepare_process
    from .stream import counted

    prepare_process()
    keep_few_kernels()
    dataset = load_dataset(data, text_column=text_column, label_column=label_column)
    if split not in dataset.splits:
        raise DataError(f"{data} has no split {split!r}; it has {', '.join(dataset.splits)}")
    if limit is not None:
        dataset = replace(dataset, splits=dataset.splits | {split: dataset.splits[split].sample(limit)})
    classifier, engine = _load(folder, trust_remote_code, not no_verify)
    if classifier.model is None:
        raise ConfigError(f"{folder} is an export, which does not say what its experts do; give the run folder")
    dataset = dataset.with_label_order(classifier.label_names)
    beside = None if dense is None else _load(dense, trust_remote_code, not no_verify)
    if beside is not None and beside[0].model is None:
        raise ConfigError(f"--dense {dense} is an export; give the run folder of the dense model")
    out.mkdir(parents=True, exist_ok=True)
    with counted(len(dataset.splits[split]), "tracing") as update:

        def passed(traces):
            for part in traces:
                update(len(part.texts), "tracing")
                yield part
                return_freed_memory()

        found = find(
            engine,
            classifier.model,
            dataset,
            split,
            trace_path=out / "trace.parquet",
            dense=None if beside is None else beside[1],
            sizes=Sizes(shown=shown),
            progress=lambda line: update(0, line),
            passed=passed,
        )
    typer.echo(f"written to {write_report(found, out)}")
    if record is not None:
        write_json(record, without_texts(found))


def _load(folder: Path, trust_remote_code: bool, verify: bool) -> tuple[SentimentClassifier, Engine]:
    import torch

    from sentimoe import SentimentClassifier

    # small batches take less memory and, on a processor, no more time
    tokens = 8192 if torch.cuda.is_available() else 2048
    classifier = SentimentClassifier.from_pretrained(
        folder, long_texts="truncate", tokens_per_batch=tokens, trust_remote_code=trust_remote_code, verify=verify
    )
    return classifier, cast("Engine", classifier.engine)
