"""`sentimoe train`: from a backbone and labelled texts to a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .messages import say
from .places import check_folder

Option = typer.Option


def train(
    output: Annotated[
        Path, Option(help="Run folder to write: the model, its tokenizer, metrics and the exact config.")
    ],
    config: Annotated[Path | None, Option(help="YAML file with any of these settings; flags override it.")] = None,
    model: Annotated[
        str | None, Option(help="Backbone: an embedded one, a folder or a hub id. [all-MiniLM-L6-v2]")
    ] = None,
    data: Annotated[
        str | None, Option(help="A preset (tweets, imdb, tweeteval-emotion, sst5), folder or file. [tweets]")
    ] = None,
    method: Annotated[
        str | None,
        Option(help="full, bitfit, lora, p-tuning, moe-plain, moe-gated, moe-split or moe-lora. [moe-gated]"),
    ] = None,
    text_column: Annotated[str | None, Option(help="Column of the texts. [text]")] = None,
    label_column: Annotated[str | None, Option(help="Column of the labels. [label]")] = None,
    head: Annotated[
        str | None, Option(help="mean (pooling over real tokens) or native (the model's own). [mean]")
    ] = None,
    epochs: Annotated[int | None, Option(help="Passes over the training texts. [3]")] = None,
    batch_size: Annotated[int | None, Option(help="Texts per step. [32]")] = None,
    max_length: Annotated[int | None, Option(help="Tokens per text. [256]")] = None,
    learning_rate: Annotated[float | None, Option(help="Peak learning rate. [1e-4 small models, 3e-5 larger]")] = None,
    learning_rate_factor: Annotated[float | None, Option(help="Multiplies the default learning rate. [1]")] = None,
    router_learning_rate: Annotated[float | None, Option(help="Rate of the routers. [the same]")] = None,
    gate_learning_rate: Annotated[
        float | None, Option(help="Rate of the experts' gate projections. [the same]")
    ] = None,
    weight_decay: Annotated[float | None, Option(help="AdamW weight decay. [0.01]")] = None,
    warmup: Annotated[float | None, Option(help="Share of the steps with a rising rate. [0.1]")] = None,
    patience: Annotated[
        int | None, Option(help="Epochs without a better validation score before stopping. [2]")
    ] = None,
    load_in_4bit: Annotated[
        bool | None, Option(help="Frozen weights of a language model in 4 bits (CUDA) or bfloat16.")
    ] = None,
    teacher: Annotated[
        list[str] | None, Option(help="Run folder to distil from (repeatable: their mean); moe-split divides it.")
    ] = None,
    more_train: Annotated[
        str | None, Option(help="File of more labelled texts, for training alone, such as phrases.")
    ] = None,
    unlabelled: Annotated[
        str | None, Option(help="More texts to learn on from the teacher: a preset or a file.")
    ] = None,
    distillation_weight: Annotated[
        float | None, Option(help="Share of the teacher's answers in the loss. [0.5]")
    ] = None,
    distillation_temperature: Annotated[float | None, Option(help="How much they are softened. [2]")] = None,
    distillation_hidden_weight: Annotated[
        float | None, Option(help="Weight of its hidden states. [1 for moe-split, else 0]")
    ] = None,
    distillation_token_dropout: Annotated[
        float | None, Option(help="Share of tokens that a teacher which runs along and its student do not read. [0]")
    ] = None,
    dropout: Annotated[
        float | None, Option(help="Probability of the model's dropouts; 0 for a student of a teacher. [its own]")
    ] = None,
    metric: Annotated[
        str | None, Option(help="Validation score: f1_weighted, f1_macro or accuracy. [f1_weighted]")
    ] = None,
    class_weights: Annotated[bool | None, Option(help="Weigh classes by inverse frequency.")] = None,
    train_limit: Annotated[int | None, Option(help="Use only that many training texts.")] = None,
    merge: Annotated[bool | None, Option(help="Add LoRA updates to the weights after training. [merge]")] = None,
    precision: Annotated[str | None, Option(help="auto, bfloat16 or float32. [auto]")] = None,
    save_minutes: Annotated[
        float | None, Option(help="Minutes between checkpoints, from which a stopped run goes on. [10]")
    ] = None,
    save_steps: Annotated[int | None, Option(help="Steps between them, besides. [none]")] = None,
    seed: Annotated[int | None, Option(help="Seed of everything random. [0]")] = None,
    num_experts: Annotated[int | None, Option(help="Experts per layer, E. [4]")] = None,
    num_experts_per_tok: Annotated[int | None, Option(help="Experts per token, K. [2]")] = None,
    num_shared_experts: Annotated[int | None, Option(help="Experts that read every token, of moe-split. [1]")] = None,
    layers: Annotated[str | None, Option(help="Layers to convert, such as '-2,-1'. [the last two]")] = None,
    init: Annotated[
        str | None, Option(help="copy (starts as the dense model) or copy-random-gate (a control). [copy]")
    ] = None,
    init_noise: Annotated[float | None, Option(help="Relative noise on copied experts. [0]")] = None,
    router_aux_loss_coef: Annotated[float | None, Option(help="Weight of the load-balancing loss. [0.01]")] = None,
    router_z_loss_coef: Annotated[float | None, Option(help="Weight of the router z-loss. [0.001]")] = None,
    trust_remote_code: Annotated[
        bool | None, Option("--trust-remote-code", help="Run the Python code that the model or a teacher brings along.")
    ] = None,
    verify: Annotated[
        bool | None,
        Option(
            "--verify/--no-verify",
            help="Compare the folders of the model and of teachers with their manifests. [verify]",
        ),
    ] = None,
    resume: Annotated[bool, Option(help="Go on with the run in the output folder.")] = False,
    quiet: Annotated[bool, Option(help="No progress bar.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print the metrics as one JSON object.")] = False,
) -> None:
    """Train a classifier: experts (moe-gated, moe-plain) or dense (full)."""
    given = dict(locals())
    check_folder(output)
    from sentimoe.config import read_yaml
    from sentimoe.errors import ConfigError
    from sentimoe.training import TrainConfig
    from sentimoe.training import train as run

    from .show import confusion_table, metrics_table, prepare_process, print_json, print_tables
    from .stopping import stopped_by_signals

    prepare_process()
    settings = {} if config is None else read_yaml(config, "config file", "settings such as 'epochs: 3'")
    plain = set(TrainConfig().to_dict()) - {"method_settings"}
    settings |= {name: given[name] for name in plain if given[name] is not None}
    of_method = {name: given[name] for name in METHOD_FLAGS if given[name] is not None}
    if layers is not None:
        of_method["layers_to_transform"] = _layers(layers, ConfigError)
    if not isinstance(stored := settings.get("method_settings") or {}, dict):
        raise ConfigError(f"method_settings is {stored!r}; it must hold names with values, such as 'num_experts: 4'")
    settings["method_settings"] = stored | of_method
    with stopped_by_signals("sentimoe", "--resume") as stop:
        record = run(TrainConfig.from_dict(settings), output, resume=resume, progress=not quiet, stop=stop)
    for warning in record["data"]["warnings"]:
        say(f"warning: {warning}")
    if as_json:
        print_json(record["metrics"])
        return
    tables = [metrics_table(f"{record['config']['method']}, {name}", m) for name, m in record["metrics"].items()]
    print_tables(*tables, confusion_table(list(record["metrics"].values())[-1]))
    typer.echo(f"written to {output}")


METHOD_FLAGS = (
    "num_experts",
    "num_experts_per_tok",
    "num_shared_experts",
    "init",
    "init_noise",
    "router_aux_loss_coef",
    "router_z_loss_coef",
)


def _layers(text: str, error_class: type[Exception]) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise error_class(f"layers {text!r} must be whole numbers with commas, such as '-2,-1'") from error
