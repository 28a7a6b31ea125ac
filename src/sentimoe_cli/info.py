"""`sentimoe info`: what a saved model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def info(
    folder: Annotated[Path, typer.Argument(help="Run folder or any saved classifier.")],
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the Python code that the model brings along.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Architecture, experts, parameters (total and active per token), receipt and test scores of a saved model."""
    from rich.table import Table

    from sentimoe import SentimentClassifier
    from sentimoe.inference import is_exported
    from sentimoe.inference.openvino import ABOUT

    from .show import prepare_process, print_json, print_tables

    prepare_process()
    if is_exported(folder):
        print_json(json.loads((folder / ABOUT).read_text(encoding="utf-8")))
        return
    classifier = SentimentClassifier.from_pretrained(folder, precision="float32", trust_remote_code=trust_remote_code)
    facts = describe(classifier, folder)
    if as_json:
        print_json(facts)
        return
    table = Table(title=str(folder), show_header=False)
    for name, value in facts.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(name.replace("_", " "), shown)
    print_tables(table)


def describe(classifier, folder: Path) -> dict[str, Any]:
    """JSON-able facts of a loaded classifier and, where it lies in a run folder, of its run."""
    from sentimoe.evaluation import active_parameters

    model = classifier.engine.model
    moe = getattr(model.config, "moe", None)
    facts: dict[str, Any] = {
        "base_model_type": getattr(model.config, "base_model_type", model.config.model_type),
        "head": getattr(model.config, "head", "native"),
        "labels": classifier.label_names,
        "max_length": classifier.engine.max_length,
        "parameters": model.num_parameters(),
        "active_parameters": active_parameters(model),
        "experts": None if moe is None else {name: moe[name] for name in SHOWN},
        "receipt": getattr(model.config, "moe_receipt", None),
    }
    run, metrics = folder / "run.json", folder / "metrics.json"
    if run.is_file():
        record = json.loads(run.read_text(encoding="utf-8"))
        facts |= {
            "data": record["data"]["name"],
            "data_sha256": record["data"]["sha256"],
            "seed": record["config"]["seed"],
        }
    if metrics.is_file():
        scores = json.loads(metrics.read_text(encoding="utf-8"))
        facts |= {name: {key: round(m[key], 4) for key in SCORES} for name, m in scores.items()}
    return facts


SHOWN = ("expert", "num_experts", "num_experts_per_tok", "layers_to_transform")
SCORES = ("accuracy", "f1_weighted", "f1_macro")
