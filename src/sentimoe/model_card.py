"""The model card of a folder, README.md: what is known of the model when it is saved, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from .records import write_text

CARD = "README.md"
OURS = "<!-- SentiMoE writes this card again at every save. Remove this line to keep what you write here. -->"
EXPERTS = ("expert", "num_experts", "num_experts_per_tok")
PACKAGES = ("sentimoe", "torch", "transformers")


def write_card(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the card of a model into its folder, unless somebody wrote one of their own there.

    facts: what the template `templates/model_card.md.jinja` reads; all but `model` may be missing.
    """
    if not is_somebodys(folder / CARD):
        write_text(folder / CARD, render_card(facts))


def is_somebodys(card: Path) -> bool:
    """Whether a card is there that somebody wrote."""
    return card.is_file() and OURS not in card.read_text(encoding="utf-8", errors="replace")


def render_card(facts: Mapping[str, Any]) -> str:
    """The text of a card with its metadata."""
    from huggingface_hub import ModelCardData
    from jinja2 import Environment

    template = files("sentimoe").joinpath("templates/model_card.md.jinja").read_text(encoding="utf-8")
    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False)
    known = {"versions": {name: version(name) for name in PACKAGES}} | dict(facts)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["sentimoe"],
        metrics=["accuracy", "f1"] if known.get("scores") else None,
        **known.get("metadata", {}),
    )
    return environment.from_string(template).render(known | {"head": data.to_yaml(), "ours": OURS})


def made_from(model: str, method: str) -> dict[str, str]:
    """What a model was made from, as parts of a card. Cards are published: a folder is named by its last part."""
    return {"backbone": Path(model).name if Path(model).exists() else model, "method": method}


def model_facts(model: Any, max_length: int) -> dict[str, Any]:
    """What a classifier says of itself, as the part `model` of a card."""
    config = getattr(model, "config", model)
    moe = getattr(config, "moe", None)
    return {
        "labels": [str(config.id2label[index]) for index in range(config.num_labels)],
        "architecture": getattr(config, "base_config", config).model_type,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "max_length": max_length,
        "experts": None
        if moe is None
        else {name: moe[name] for name in ("expert", "num_experts", "num_experts_per_tok")},
    }
