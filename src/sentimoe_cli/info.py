"""`sentimoe info`: what a saved model is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .models import beside_model
from .options import AsJson, NoVerify, TrustRemoteCode
from .places import check_model, check_standard_output


def info(
    folder: Annotated[Path, typer.Argument(help="Folder of a classifier, a ready model or a hub id.")],
    trust_remote_code: TrustRemoteCode = False,
    no_verify: NoVerify = False,
    as_json: AsJson = False,
) -> None:
    """Architecture, experts, parameters (total and active per token), receipt and test scores of a saved model."""
    check_standard_output()
    check_model(folder)
    from rich.table import Table

    from sentimoe import SentimentClassifier
    from sentimoe.inference import BASE, about_domain, domain_names, is_compressed, is_exported
    from sentimoe.model_folder import COMPRESSED, EXPORT, find_folder

    from .messages import visible
    from .show import prepare_process, print_json, print_tables

    prepare_process()
    folder = find_folder(folder)
    if is_compressed(folder):
        from sentimoe.compression import certificate_lines

        about = beside_model(folder, COMPRESSED)
        print_json(about) if as_json else typer.echo("\n".join(certificate_lines(about)))
        return
    if is_exported(folder):
        print_json(beside_model(folder, EXPORT))
        return
    base = BASE if domain_names(folder) else None
    classifier = SentimentClassifier.from_pretrained(
        folder, precision="float32", trust_remote_code=trust_remote_code, verify=not no_verify, domain=base
    )
    facts = describe(classifier, folder)
    if domains := domain_names(folder):
        facts["domains"] = {name: _of_domain(about_domain(folder, name)) for name in domains}
    if as_json:
        print_json(facts)
        return
    table = Table(title=visible(str(folder)), show_header=False)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), visible(_in_words(value)))
    print_tables(table)


def _of_domain(about: dict[str, Any]) -> dict[str, Any]:
    return {name: about[name] for name in ("kind", "labels", "parameters", "megabytes", "data")}


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def describe(classifier, folder: Path) -> dict[str, Any]:
    """JSON-able facts of a loaded classifier and, where it lies in a run folder, of its run."""
    from sentimoe.errors import ModelFolderError
    from sentimoe.evaluation import active_parameters
    from sentimoe.methods.storage import RUN
    from sentimoe.ready import is_ready
    from sentimoe.upcycle import layer_numbers
    from sentimoe_ready import facts as ready_facts

    model = classifier.engine.model
    moe = getattr(model.config, "moe", None)
    facts: dict[str, Any] = {
        "base_model_type": getattr(model.config, "base_config", model.config).model_type,
        "head": getattr(model.config, "head", "native"),
        "labels": classifier.label_names,
        "max_length": classifier.engine.max_length,
        "parameters": model.num_parameters(),
        "active_parameters": active_parameters(model),
        "experts": None if moe is None else {name: moe[name] for name in SHOWN} | {"layers": layer_numbers(model)},
        "receipt": getattr(model.config, "moe_receipt", None),
    }
    if is_ready(folder):
        known = ready_facts(folder)
        return facts | {"data": known["data"], known["split"]: {key: round(known["scores"][key], 4) for key in SCORES}}
    if not (folder / RUN).is_file():  # written last: without it other files may be of a run that was killed
        return facts
    record, scores = beside_model(folder, "run.json"), beside_model(folder, "metrics.json")
    try:
        facts |= {
            "data": record["data"]["name"],
            "data_sha256": record["data"]["sha256"],
            "seed": record["config"]["seed"],
        }
        return facts | {name: {key: round(m[key], 4) for key in SCORES} for name, m in scores.items()}
    except (KeyError, TypeError) as error:
        raise ModelFolderError(
            f"{folder}: run.json and metrics.json are not of `sentimoe train` ({error!r})"
        ) from error


SHOWN = ("expert", "num_experts", "num_experts_per_tok")
SCORES = ("accuracy", "f1_weighted", "f1_macro")
