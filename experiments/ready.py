"""`python -m experiments ready-models`: train the ready models, pack what they learnt, measure it and write the cards.

Each step leaves a file and is not done twice: a run folder under `work`, then `results/ready/NAME.json`. The cards and
the model folders are written from these.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.torch import load_file, save_file

from sentimoe import SentimentClassifier
from sentimoe.data import SeenTexts, load_dataset
from sentimoe.errors import ConfigError
from sentimoe.evaluation import evaluate_predictions
from sentimoe.machine import hardware
from sentimoe.manifest import sha256, write_manifest
from sentimoe.model_card import model_facts, write_card
from sentimoe.model_folder import ADAPTER, SEEN, read_object
from sentimoe.ready import DOWN, UP
from sentimoe.records import read_json, write_json
from sentimoe.training import Stop, TrainConfig, train
from sentimoe_ready import FACTS, UPDATES

from .ready_data import other_sets, prepare_data

ADAPTER_WEIGHTS = "adapter_model.safetensors"
BACKBONE = "all-MiniLM-L6-v2"
SETTINGS = ("epochs", "batch_size", "max_length", "learning_rate", "seed")
TOLERANCE = 2e-3  # of a probability, from rounding the updates to 16 bits


def recipes() -> dict[str, dict[str, Any]]:
    """What `experiments/ready.yaml` says of each model: settings of `TrainConfig`, and what its card says."""
    read = yaml.safe_load((Path(__file__).parent / "ready.yaml").read_text(encoding="utf-8"))
    return {
        name: recipe | {part: recipe[part] + read["all"][part] for part in ("limits", "licences")}
        for name, recipe in read["models"].items()
    }


def make(
    name: str,
    *,
    data_root: Path,
    work: Path,
    results: Path,
    target: Path,
    progress: Callable[[str], None],
    stop: Stop | None = None,
) -> None:
    """Make one ready model, or what is left to do of it: its folder in `target`, its record in `results`."""
    run, record = work / name, results / f"{name}.json"
    found = prepare_data(name, data_root, work / "data" / name)
    recipe = recipes()[name]
    settings = {"model": BACKBONE, "method": "lora", "merge": False} | found | recipe["settings"]
    unlabelled = settings.pop("unlabelled", None)  # only teachers have answers to them
    if "teachers" in recipe:
        settings["unlabelled"] = unlabelled
        settings["teacher"] = _teachers(name, found["data"], recipe["teachers"], work, progress, stop)
    config = _trained(settings, run, progress, stop)
    folder = work / "packed" / name
    pack(run, folder, config)
    if not record.is_file() or read_json(record)["updates_sha256"] != sha256(folder / UPDATES):
        progress(f"{name}: measuring")
        results.mkdir(parents=True, exist_ok=True)
        write_json(record, measure(name, run, folder, config, data_root))
    describe(name, folder, read_json(record))
    shutil.copytree(folder, target / name, dirs_exist_ok=True)  # whole: what is half made would be listed
    progress(f"{name}: {target / name}")


def _teachers(
    name: str, data: str, recipe: dict[str, Any], work: Path, progress: Callable[[str], None], stop: Stop | None
) -> list[str]:
    """The run folders of the models that a ready model learns from: one for each seed."""
    folders = [work / "teachers" / f"{name}-s{seed}" for seed in recipe["seeds"]]
    shared = {key: value for key, value in recipe.items() if key != "seeds"} | {"data": data}
    for seed, folder in zip(recipe["seeds"], folders, strict=True):
        _trained(shared | {"seed": seed}, folder, progress, stop)
    return [str(folder) for folder in folders]


def _trained(settings: dict[str, Any], run: Path, progress: Callable[[str], None], stop: Stop | None) -> TrainConfig:
    """Train what is not trained yet. Raises ConfigError for a run folder of other settings."""
    config = TrainConfig.from_dict(settings)
    if not (run / "run.json").is_file():
        progress(f"{run.name}: training")
        train(config, run, resume=True, stop=stop)
    elif other := _changed(read_json(run / "run.json")["config"], config.to_dict(), settings):
        raise ConfigError(f"{run} was trained with other settings ({', '.join(other)}); remove it to train again")
    return config


def _changed(before: dict[str, Any], now: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """The names of the given settings that a finished run does not have."""
    return [name for name in given if str(before.get(name)) != str(now[name])]


def pack(run: Path, folder: Path, config: TrainConfig) -> None:
    """Write what a run with an adapter learnt as 16-bit updates, their scale in the second factor, and its facts.

    The texts that it saw, of training and validation, are kept as hashes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    adapter, stored = read_object(run / ADAPTER), load_file(run / ADAPTER_WEIGHTS)
    scale = adapter["lora_alpha"] / adapter["r"]
    packed = {}
    for name, tensor in stored.items():
        plain = name.removeprefix("base_model.model.").removesuffix(".weight")
        if name.endswith(f"{UP}.weight"):
            tensor = tensor * scale
        packed[plain if plain.endswith((DOWN, UP)) else name.removeprefix("base_model.model.")] = tensor.half()
    save_file({name: tensor.contiguous() for name, tensor in sorted(packed.items())}, folder / UPDATES)
    (folder / UPDATES).chmod(0o644)
    splits = load_dataset(config.data, more_train=config.more_train).splits
    SeenTexts.of(splits["train"].texts + splits["validation"].texts).save(folder)
    base = read_object(run / "base" / "config.json")
    labels = [base["id2label"][str(index)] for index in range(len(base["id2label"]))]
    known = read_json(folder / FACTS) if (folder / FACTS).is_file() else {}
    facts = {
        "backbone": BACKBONE,
        "labels": labels,
        "label_type": base.get("label_type", "str"),
        "max_length": config.max_length,
    }
    _write_facts(folder, known | facts)


def measure(name: str, run: Path, folder: Path, config: TrainConfig, data_root: Path) -> dict[str, Any]:
    """Scores of a packed model on its test texts and on other data, and how far packing moved its probabilities."""
    ran = read_json(run / "run.json")
    ready = SentimentClassifier.from_pretrained(folder, precision="float32", verify=False)
    dataset = load_dataset(config.data, more_train=config.more_train).with_labels_of(ready.label_names)
    test = dataset.splits["test"]
    test = test if config.eval_limit is None else test.sample(config.eval_limit)
    some = test.sample(min(200, len(test))).texts
    before = SentimentClassifier.from_pretrained(run, precision="float32").predict_proba(some)
    moved = float(np.abs(before - ready.predict_proba(some)).max())
    if moved > TOLERANCE:
        raise AssertionError(f"{name}: packing moved a probability by {moved:.1e}")
    others = []
    for other in other_sets(name, data_root, set(dataset.splits["train"].texts)):
        probabilities = other.joined(ready.predict_proba(other.texts), ready.label_names)
        scores = evaluate_predictions(other.labels, probabilities, other.label_names)
        others.append({"name": other.name, "how": other.how, "left_out": other.left_out} | scores)
    return {
        "updates_sha256": sha256(folder / UPDATES),
        "rounding": moved,
        "scores": evaluate_predictions(test.labels, ready.predict_proba(test.texts), dataset.label_names),
        "validation": read_json(run / "metrics.json")["validation"],
        "teachers": [_kept(read_json(Path(folder) / "metrics.json")["test"]) for folder in config.teachers],
        "others": others,
        "data": ran["data"] | {"warnings": [_named(each, config) for each in ran["data"]["warnings"]]},
        "more_train_texts": ran["data"]["train_used"],
        "settings": {key: ran["config"][key] for key in SETTINGS},
        "method_settings": {key: read_object(run / ADAPTER)[key] for key in ("r", "lora_alpha", "lora_dropout")},
        "calibration": ran["calibration"],
        "tfidf": ran["tfidf"],
        "seconds": ran["seconds"],
        "versions": ran["versions"],
        "hardware": hardware(),
        "model": model_facts(ready.model, ready.engine.max_length),
    }


def _named(warning: str, config: TrainConfig) -> str:
    """A warning with the name of the file in place of where it lay."""
    return warning if config.more_train is None else warning.replace(config.more_train, Path(config.more_train).name)


def describe(name: str, folder: Path, record: dict[str, Any]) -> None:
    """Write card and facts of a ready model from its record, and the manifest of its folder."""
    told, settings, scores = recipes()[name], record["settings"], record["scores"]
    epochs = f"{settings['epochs']} epoch{'s' * (settings['epochs'] > 1)}"
    training = (
        f"{told['training']} Low-rank updates of rank {record['method_settings']['r']} of every linear map, {epochs} "
        f"at a learning rate of {settings['learning_rate']:g}, at most {settings['max_length']} tokens per text, seed "
        f"{settings['seed']}. Stored in 16 bits, which moved no probability of 200 test texts by more than "
        f"{record['rounding']:.0e}."
    )
    if taught := [each["f1_weighted"] for each in record.get("teachers", ())]:
        training += (
            f" Weighted F1 of the teachers on the same test texts: {', '.join(f'{each:.3f}' for each in taught)}."
        )
    facts = {
        "name": f"sentimoe {name}",
        "ready": name,
        "backbone": BACKBONE,
        "method": "lora",
        "metadata": {"language": "en", "base_model": f"sentence-transformers/{BACKBONE}"},
        "data": record["data"] | {"name": told["data"]},
        "training": training,
        "scores": {"test": scores | {"title": told["test"]}},
        "versions": {package: record["versions"][package] for package in ("sentimoe", "torch", "transformers")},
    }
    facts |= {key: record[key] for key in ("model", "calibration", "tfidf", "others")}
    facts |= {key: told[key] for key in ("summary", "limits", "licences")}
    write_card(folder, facts)
    _write_facts(
        folder,
        read_json(folder / FACTS)
        | {"for": told["for"], "data": told["data"], "split": "test", "scores": _kept(scores)},
    )


def _kept(scores: dict[str, Any]) -> dict[str, Any]:
    return {key: scores[key] for key in ("n", "accuracy", "f1_weighted", "f1_macro")}


def _write_facts(folder: Path, facts: dict[str, Any]) -> None:
    write_json(folder / FACTS, facts)
    write_manifest(folder, (FACTS, UPDATES, SEEN))
