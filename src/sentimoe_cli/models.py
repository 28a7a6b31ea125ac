"""The model that a command works with: a trained one from its folder, or a language model that is only asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentimoe import SentimentClassifier
    from sentimoe.data import FileFormat


def load_model(
    name: str,
    method: str | None,
    labels: Sequence[str],
    mode: str,
    data: str,
    trust_remote_code: bool,
    verify: bool,
    *,
    precision: str,
    **settings: Any,
) -> SentimentClassifier:
    """A run folder; with method "zero-shot" a language model asked for these labels. Raises ConfigError.

    settings: of `SentimentClassifier.from_pretrained`, for a run folder.
    """
    from sentimoe import SentimentClassifier
    from sentimoe.errors import ConfigError

    from .stream import loading

    options: dict[str, Any] = {"precision": precision, "trust_remote_code": trust_remote_code, "verify": verify}
    if method is None:
        if mode != "calibrated":
            raise ConfigError(f"--mode {mode} is of language models that are asked; add --method zero-shot")
        with loading(Path(name).name):
            return SentimentClassifier.from_pretrained(name, **options, **settings)
    if method != "zero-shot":
        raise ConfigError(f"--method {method!r} is read from the run folder; the only one to name here is 'zero-shot'")
    usual = {
        "long_texts": "windows",
        "backend": "torch",
        "num_experts_per_tok": None,
        "max_disagreement": None,
        "domain": None,
    }
    if other := [name for name, value in settings.items() if value != usual.get(name, value)]:
        raise ConfigError(
            f"zero-shot does not have {', '.join(other)}: they are of trained classifiers; leave them out"
        )
    if len(labels) < 2:
        raise ConfigError("zero-shot needs two or more labels to choose from, such as --labels negative,positive")
    from sentimoe.methods import PROMPTS  # brings peft

    with loading(Path(name).name):
        return SentimentClassifier.zero_shot(name, labels, prompt=PROMPTS.get(data), mode=mode, **options)


def model_name(model: str | Path) -> str:
    """What a person would call it: its folder or name and, of a run folder, what was trained and how."""
    folder = Path(model)
    config = beside_model(folder, "run.json").get("config", {})
    facts = [Path(config["model"]).name, config["method"]] if {"model", "method"} <= config.keys() else []
    return (folder.resolve().name if folder.is_dir() else str(model)) + (f" ({', '.join(facts)})" if facts else "")


def beside_model(folder: Path, name: str) -> dict[str, Any]:
    """What a JSON file of a run folder holds; empty where there is none. Raises ModelFolderError when it is damaged."""
    from sentimoe.model_folder import read_object

    return read_object(folder / name) if (folder / name).exists() else {}


def usual_format(model: str | None, encoding: str | None, delimiter: str | None) -> FileFormat:
    """How to read a file: as it is told, and with the columns that the model was trained on, if it is known."""
    from sentimoe.data import FileFormat

    folder = None if model is None else _folder(model)
    config = {} if folder is None else beside_model(folder, "run.json").get("config", {})
    return FileFormat(encoding, delimiter, (config.get("text_column"), config.get("label_column")))


def _folder(model: str) -> Path | None:
    """Where a model lies on this machine."""
    from sentimoe_ready import ready_models

    folder = Path(ready_models().get(model, model))
    return folder if folder.is_dir() else None
