"""`sentimoe train`: from a backbone and labelled texts to a run folder. Its options are the fields of the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sentimoe_settings import ConfigError, TrainConfig, check_trains, method_fields, read_yaml

from .launched import command, one_voice
from .messages import say
from .options import AsJson, with_options
from .places import check_data, check_folder
from .stopping import stopped_by_signals

Option = typer.Option
OF_METHOD = method_fields()
PLAIN = {name: field for name, field in TrainConfig.fields().items() if name != "method_settings"}
PANELS = ("Data", "Model", "Experts", "LoRA", "P-Tuning", "Training", "Distillation", "Process")


@with_options(PLAIN | OF_METHOD, PANELS)
def train(
    output: Annotated[Path, Option(help="Run folder to write: model, tokenizer, metrics and all settings.")],
    config: Annotated[Path | None, Option(help="YAML file with any of these settings; options override it.")] = None,
    resume: Annotated[bool, Option(help="Continue the run in the output folder.")] = False,
    quiet: Annotated[bool, Option(help="No progress bar.")] = False,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Train a classifier: dense (full), with experts (moe-gated, moe-plain, moe-split) or with few trained weights.

    Several processes train together where torchrun or accelerate launch starts them.
    """
    with one_voice():
        check_folder(output)
        settings = _settings(config, {name: value for name, value in given.items() if value is not None})
        check_trains(settings.method)
        check_data(settings.data, settings.more_train, settings.unlabelled)
        with stopped_by_signals(command(), "--resume") as stop:
            from sentimoe.training import train as run

            from .show import (
                confusion_table,
                metrics_table,
                most_frequent_line,
                prepare_process,
                print_json,
                print_tables,
            )

            prepare_process()
            record = run(settings, output, resume=resume, progress=not quiet, stop=stop)
    if not record:  # the first process tells
        return
    if as_json:
        if record["tfidf"] is not None:
            say(_beside_tfidf(record))
        print_json(record["metrics"])
        return
    tables = [metrics_table(f"{record['config']['method']}, {name}", m) for name, m in record["metrics"].items()]
    last = list(record["metrics"].values())[-1]
    print_tables(*tables, confusion_table(last))
    typer.echo(most_frequent_line(last["most_frequent"]))
    if record["tfidf"] is not None:
        say(_beside_tfidf(record))
    if (found := record["calibration"]) is not None:
        typer.echo(
            f"calibrated on {found['n']} validation texts: temperature {found['temperature']:.2f}, expected calibration "
            f"error {found['ece_before']:.3f} before and {found['ece_after']:.3f} after (cross-fitted)"
        )
    typer.echo(f"written to {output}")


def _beside_tfidf(record: dict[str, Any]) -> str:
    name = list(record["metrics"])[-1]
    ours, theirs = record["metrics"][name]["f1_weighted"], record["tfidf"][name]["f1_weighted"]
    tested = record["tfidf"]["difference"]
    low, high = tested["interval"]
    count = record["metrics"][name]["n"]
    line = (
        f"TF-IDF and logistic regression on the same {name}: weighted F1 {theirs:.4f}, this model {ours:.4f} "
        f"({tested['difference']:+.4f}, 95% interval {low:+.4f} to {high:+.4f})"
    )
    if low > 0:
        return line
    if high < 0:
        return f"warning: {line}: this model is worse; give more texts or more epochs"
    return f"warning: {line}: {count} texts do not show that this model is better"


def _settings(file: Path | None, given: dict[str, Any]) -> TrainConfig:
    """The settings in a YAML file, overridden by those given."""
    stored = {} if file is None else read_yaml(file, "config file", "settings such as 'epochs: 3'")
    of_method = stored.get("method_settings") or {}
    if not isinstance(of_method, dict):
        raise ConfigError(f"method_settings={of_method!r} is not allowed; it must be names with values")
    of_method = of_method | {name: value for name, value in given.items() if name in OF_METHOD}
    plain = {name: value for name, value in given.items() if name in PLAIN}
    return TrainConfig.from_dict(stored | plain | {"method_settings": of_method})
