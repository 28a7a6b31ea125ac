"""Add a domain to a trained classifier: a router score and a top of its own. What was there before is not changed.

Legend: D hidden, V vectors.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn
from transformers import PreTrainedModel

from ..data import SeenTexts, SentimentDataset, load_dataset
from ..errors import ConfigError, DataError, NotSupportedError, SentiMoEError
from ..evaluation import calibration
from ..inference import BASE, Engine, RoutedClassifier, compute_dtype, domain_names, load_routed
from ..inference.domain_folder import kept_vectors, save_domain, save_kept, tidy
from ..inference.routed import Domain, put
from ..inference.segments import Segment, check_segments
from ..loading import Loaded, load
from ..machine import hardware, versions
from ..records import writes
from ..upcycle import logits_layer, moe_layers
from .fitting import Examples, train_top
from .receipt import OldTexts, effect_on_old, on_own_texts
from .router import Fitted, fit_router
from .states import Read, Trunk
from .updates import DEFAULT, KINDS

KEPT = 2000  # vectors
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How a domain is added.

    layers: the last ones, of which it has its own; as many as the first domain of a model has. epochs: at most; the best
    on validation counts. learning_rate: of full fine-tuning, which the kind of update scales. max_moved: the share of old
    texts that may go to the new domain. kind: of update, see `updates.KINDS`.
    """

    layers: int = 2
    epochs: int = 5
    learning_rate: float = 1e-4
    max_moved: float = 0.05
    seed: int = 0
    precision: str = "auto"
    kind: str = DEFAULT
    trust_remote_code: bool = False
    verify: bool = True


def add_domain(
    folder: Path,
    name: str,
    dataset: SentimentDataset,
    recipe: Recipe | None = None,
    *,
    unlabelled: Sequence[str] = (),
    old_texts: OldTexts | None = None,
    output: Path | None = None,
    progress: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Train a domain on its texts and put it into the model folder, or into a copy of it. Returns the receipt.

    name: of lower-case letters, digits, `.`, `_` and `-`. unlabelled: more texts of the domain, for the router. old_texts:
    of the kind that the model answers already. output: a new folder, which gets the model and all its domains.

    Raises:
        ConfigError: such a model, name or output is not possible, or the training texts of the model are not at hand.
        DataError: too few texts.
        NotSupportedError: more old texts would be moved than allowed. Nothing is left behind then.
    """
    recipe, started = recipe or Recipe(), time.monotonic()
    _check(folder, name, recipe, output)
    how: dict[str, Any] = {"trust_remote_code": recipe.trust_remote_code, "verify": recipe.verify}
    there = domain_names(folder)
    loaded = load(
        folder, precision=recipe.precision, num_experts_per_tok=None, max_disagreement=None,
        domain=BASE if there else None, **how,
    )  # fmt: skip
    model = _dense(loaded)
    count = model.config.get_text_config().num_hidden_layers
    if recipe.layers >= count:
        raise ConfigError(f"layers={recipe.layers} must be fewer than the {count} layers of {folder}")
    cut = count - recipe.layers
    check_segments(model, (cut,))
    dtype = compute_dtype(recipe.precision, model.device)
    present = load_routed(folder, model, dtype, None, recipe.verify) if there else None
    if present is not None and present.cut != cut:
        raise ConfigError(
            f"layers={recipe.layers}: the domains of {folder} start after {present.cut} layers; so must this"
        )
    dataset = _with_labels_of(dataset, model)

    trunk = Trunk(model, loaded.tokenizer, cut, recipe.precision)
    kept, old_texts, note = _old_vectors(folder, trunk, old_texts, recipe)
    if note:
        progress(note)
    progress(f"the trunk of {cut} layers reads the texts of {name}")
    read = {split: trunk.read(part.texts, states=True) for split, part in dataset.splits.items() if split != "test"}
    vectors = np.concatenate([read["train"].pooled, *([trunk.read(unlabelled).pooled] if len(unlabelled) else [])])
    fitted = fit_router(list(kept.values()), vectors, recipe.max_moved, recipe.seed)
    progress(f"the router finds {fitted.found:.0%} of the texts and takes {fitted.moved:.1%} of the old ones")

    trained_at = time.monotonic()
    domain = _trained(model, name, dataset, read, cut, fitted, recipe, dtype)
    seconds = {"training": round(time.monotonic() - trained_at, 1)}
    before = Engine(present or model, loaded.tokenizer, precision=recipe.precision)
    domain, temperature = _calibrated(domain, model, before, dataset, dtype)
    tops = [*([] if present is None else present.domains), domain]
    after = before.with_model(RoutedClassifier(model, tops, dtype))
    receipt: dict[str, Any] = {
        "name": name,
        "max_moved": recipe.max_moved,
        "kept": {of: {"vectors": len(each), "moved": float(_takes(fitted, each).mean())} for of, each in kept.items()},
        "router": {"moved": fitted.moved, "found": fitted.found},
    }
    held = "test" if "test" in dataset.splits else "validation"
    alone = before.with_model(RoutedClassifier(model, tops, dtype, fixed=name))
    receipt["domain"] = {"split": held} | on_own_texts(before, alone, after, dataset.splits[held], dataset.label_names)
    if old_texts is not None and old_texts.texts:
        receipt["old_texts"] = effect_on_old(before, after, old_texts, recipe.precision)
    shares = [each["moved"] for each in receipt["kept"].values()] + [receipt.get("old_texts", {}).get("share", 0.0)]
    if max(shares) > recipe.max_moved:
        raise NotSupportedError(
            f"{max(shares):.1%} of old texts would go to {name}, more than max_moved={recipe.max_moved:g}; nothing was "
            "added. Allow more, or give --unlabelled texts that show better what the domain is"
        )
    seconds["all"] = round(time.monotonic() - started, 1)
    receipt |= {"temperature": temperature, "seconds": seconds, "versions": versions(), "hardware": hardware()}
    about = {
        "name": name, "number": _next_number(folder, there), "kind": recipe.kind, "data": dataset.name,
        "data_sha256": dataset.sha256,
        "parameters": sum(each.numel() for each in domain.updates.values()),
    }  # fmt: skip
    seen = SeenTexts.of(text for split in ("train", "validation") for text in dataset.splits[split].texts)
    with writes(output or folder), _target(folder, output) as target:
        if BASE in kept and not there:
            save_kept(target, kept[BASE])
        save_domain(target, domain, _some(vectors, recipe.seed), about, receipt, seen)
    return receipt


def _check(folder: Path, name: str, recipe: Recipe, output: Path | None) -> None:
    """Raises ConfigError for what is wrong before anything is read."""
    if not NAME.fullmatch(name) or name == BASE:
        raise ConfigError(
            f"name={name!r} must begin with a lower-case letter or digit, go on with these, '.', '_' or '-', and not be "
            f"{BASE!r}, which is the model itself"
        )
    if name in domain_names(folder):
        raise ConfigError(f"{folder} has a domain {name!r} already; remove it first, or choose another name")
    if recipe.kind not in KINDS:
        raise ConfigError(f"kind={recipe.kind!r} must be one of {tuple(KINDS)}")
    if not 0 <= recipe.max_moved <= 1:
        raise ConfigError(f"max_moved={recipe.max_moved:g} must be a share from 0 to 1")
    if recipe.epochs < 1 or recipe.layers < 1 or not recipe.learning_rate > 0:
        raise ConfigError("epochs and layers must be 1 or more, and learning_rate above 0")
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} is not empty; choose another folder")


def _dense(loaded: Loaded) -> PreTrainedModel:
    """The network, if a domain can be added to it. Raises ConfigError."""
    model = loaded.network
    if not isinstance(model, PreTrainedModel):
        raise ConfigError(
            f"{loaded.folder} is exported, compressed or an adapter; add the domain to the run folder that it was made "
            "from (an adapter: trained with merge), and compress the base"
        )
    if moe_layers(model):
        raise ConfigError(f"{loaded.folder} has experts for each token; a domain is added to a dense classifier")
    return model


def _with_labels_of(dataset: SentimentDataset, model: PreTrainedModel) -> SentimentDataset:
    """The data with the labels of the model where it knows them all, so that its head goes on."""
    own = [model.config.id2label[index] for index in range(model.config.num_labels)]
    return dataset.with_labels_of(own) if set(dataset.label_names) <= set(own) else dataset


def _old_vectors(
    folder: Path, trunk: Trunk, old_texts: OldTexts | None, recipe: Recipe
) -> tuple[dict[str, np.ndarray], OldTexts | None, str]:
    """The vectors of the base and of each domain; what is left of old texts to measure with, and where they are from."""
    kept = {each.of: each.vectors for each in kept_vectors(folder)}
    if BASE in kept:
        return kept, old_texts, ""
    texts, why = _training_texts(folder)
    if texts:
        note = f"the router learns what is old from {min(len(texts), KEPT)} training texts of the model"
    elif old_texts is None:
        raise ConfigError(f"what the model was trained on is not at hand ({why}); give --old-texts, of the same kind")
    else:
        order = np.random.default_rng(recipe.seed).permutation(len(old_texts.texts)).tolist()
        half = min(KEPT, len(order) // 2)
        texts, rest = [old_texts.texts[row] for row in order[:half]], order[half:]
        labels = None if old_texts.labels is None else [old_texts.labels[row] for row in rest]
        old_texts = OldTexts([old_texts.texts[row] for row in rest], labels)
        note = (
            f"the training texts of the model are not at hand ({why}): the router learns what is old from {half} of the "
            f"old texts, and the other {len(rest)} measure what moves"
        )
    order = np.random.default_rng(recipe.seed).permutation(len(texts))[:KEPT].tolist()
    return {BASE: trunk.read([texts[row] for row in order]).pooled} | kept, old_texts, note


def _training_texts(folder: Path) -> tuple[list[str], str]:
    """Those that the config of a run names, if they are there; else why not."""
    config = folder / "config.yaml"
    if not config.exists():
        return [], "it has no config.yaml"
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    try:
        columns = {key: settings.get(key) for key in ("text_column", "label_column")}
        return load_dataset(settings["data"], **columns).splits["train"].texts, ""
    except (SentiMoEError, OSError) as error:
        return [], str(error).split(";")[0]


def _trained(
    model: PreTrainedModel,
    name: str,
    dataset: SentimentDataset,
    read: dict[str, Read],
    cut: int,
    fitted: Fitted,
    recipe: Recipe,
    dtype: torch.dtype,
) -> Domain:
    top = Segment(model, cut, model.config.get_text_config().num_hidden_layers)
    own = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if list(dataset.label_names) != own:
        _new_head(top.model, len(dataset.label_names))
    examples = {
        split: Examples(each.states, [dataset.splits[split].labels[row] for row in each.rows])
        for split, each in read.items()
    }
    updates = train_top(
        top, recipe.kind, examples["train"], examples["validation"],
        epochs=recipe.epochs, rate=recipe.learning_rate, seed=recipe.seed, dtype=dtype,
    )  # fmt: skip
    return Domain(
        name, list(dataset.label_names), dataset.label_type, cut, fitted.weight, fitted.bias,
        {key: each.cpu() for key, each in updates.items()},
    )  # fmt: skip


def _new_head(model: PreTrainedModel, num_labels: int) -> None:
    """Another number of labels, all of them equally likely at first."""
    linear = logits_layer(model)
    name = next(name for name, module in model.named_modules() if module is linear)
    put(model, f"{name}.weight", nn.Parameter(torch.zeros(num_labels, linear.in_features, device=model.device)))
    if linear.bias is not None:
        put(model, f"{name}.bias", nn.Parameter(torch.zeros(num_labels, device=model.device)))
    linear.out_features = num_labels


def _calibrated(
    domain: Domain, model: PreTrainedModel, engine: Engine, dataset: SentimentDataset, dtype: torch.dtype
) -> tuple[Domain, float | None]:
    """The domain with its logits divided by the temperature under which its labels are likeliest; None: too few texts."""
    validation = dataset.splits["validation"]
    alone = engine.with_model(RoutedClassifier(model, [domain], dtype, fixed=domain.name))
    linear = logits_layer(model)
    name = next(name for name, module in model.named_modules() if module is linear)
    try:
        temperature = float(calibration(alone.answers_at(validation.texts), validation.labels)["temperature"])
    except DataError as error:
        logger.warning("the domain is not calibrated: %s", error)
        return domain, None
    updates = {key: each / temperature if key.startswith(f"{name}.") else each for key, each in domain.updates.items()}
    return replace(domain, updates=updates), temperature


def _takes(fitted: Fitted, vectors: np.ndarray) -> np.ndarray:
    return vectors @ fitted.weight + fitted.bias > 0


def _some(vectors: np.ndarray, seed: int) -> np.ndarray:
    return vectors[np.random.default_rng(seed).permutation(len(vectors))[:KEPT]]


def _next_number(folder: Path, there: Sequence[str]) -> int:
    from ..inference import about_domain

    return 1 + max((about_domain(folder, name)["number"] for name in there), default=0)


@contextmanager
def _target(folder: Path, output: Path | None) -> Iterator[Path]:
    """The folder to write to: the model's own, or a copy that goes again if the block raises."""
    target = output or folder
    try:
        if output is not None:
            shutil.copytree(folder, output, dirs_exist_ok=True)
        yield target
    except BaseException:
        if output is not None:
            shutil.rmtree(output, ignore_errors=True)
        else:
            tidy(folder)
        raise
