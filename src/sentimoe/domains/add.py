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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from ..data import SeenTexts, SentimentDataset
from ..errors import ConfigError, DataError
from ..inference import BASE, Engine, RoutedClassifier, compute_dtype, domain_names, load_routed
from ..inference.domain_folder import BASE_VECTORS, save_domain, save_kept, tidy, weights_hash
from ..inference.lengths import position_limit, window_length
from ..inference.segments import check_segments
from ..loading import Loaded, load
from ..machine import hardware, versions
from ..records import writes
from ..upcycle import moe_layers
from ..upcycle.labels import label_type
from .old import some, what_is_old
from .receipt import (
    OldTexts,
    check_moved,
    check_old_labels,
    effect_on_kept,
    effect_on_old,
    effect_on_unmoved,
    moved_in_all,
    on_own_texts,
)
from .router import fit_router
from .states import Trunk
from .top import calibrated, trained_domain, with_labels_of
from .updates import DEFAULT

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How a domain is added.

    layers: the last ones, of which it has its own; as many as the first domain of a model has. epochs: the best one on
    validation counts; None: 4, up to 20 for few texts. learning_rate: of full fine-tuning; the
    updates and the head take ten times as much. max_moved: the share of old texts that may go to the new domain.
    """

    layers: int = 2
    epochs: int | None = None
    learning_rate: float = 1e-4
    max_moved: float = 0.05
    seed: int = 0
    precision: str = "auto"
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

    name: of lower-case letters, digits, `.`, `_` and `-`. unlabelled: more texts of the domain, for the router.
    old_texts: of the kind that the model answers already. output: a new folder, which gets the model with its domains.

    Raises:
        ConfigError: such a model, name or output is not possible, the training texts of the model are not at hand, or
            the domains or the weights of the folder changed meanwhile.
        DataError: too few texts.
        NotSupportedError: more old texts would be moved than allowed. Nothing is left behind then.
    """
    recipe, started = recipe or Recipe(), time.monotonic()
    _check(folder, name, recipe, output)
    how: dict[str, Any] = {"trust_remote_code": recipe.trust_remote_code, "verify": recipe.verify}
    there, weights = domain_names(folder), weights_hash(folder)
    loaded = load(
        folder, precision=recipe.precision, num_experts_per_tok=None, max_disagreement=None,
        domain=BASE if there else None, **how,
    )  # fmt: skip
    model = _dense(loaded)
    count = model.config.get_text_config().num_hidden_layers
    if recipe.layers >= count:
        raise ConfigError(f"layers={recipe.layers} must be fewer than the {count} layers of {folder}")
    cut = count - recipe.layers
    check_segments(model, (cut,), window_length(None, loaded.tokenizer, position_limit(model)))
    dtype = compute_dtype(recipe.precision, model.device)
    present = load_routed(folder, model, dtype, None, recipe.verify) if there else None
    if present is not None and present.cut != cut:
        raise ConfigError(
            f"layers={recipe.layers}: the domains of {folder} start after {present.cut} layers; so must this"
        )
    dataset = with_labels_of(dataset, model)
    answers = (present or model).config
    check_old_labels(old_texts, [answers.id2label[index] for index in range(answers.num_labels)])
    if label_type(answers) == "int" and dataset.label_type != "int":
        progress(f"warning: {folder} has integers as labels, and {name} has others: predict will give all as strings")

    trunk = Trunk(model, loaded.tokenizer, cut, recipe.precision)
    old = what_is_old(folder, trunk, old_texts, recipe.seed)
    kept, old_texts = old.vectors, old.texts
    if old.note:
        progress(old.note)
    progress(f"the trunk of {cut} layers reads the texts of {name}")
    read = {split: trunk.read(part.texts, states=True) for split, part in dataset.splits.items() if split != "test"}
    vectors = np.concatenate([read["train"].pooled, *([trunk.read(unlabelled).pooled] if len(unlabelled) else [])])
    fitted = fit_router(list(kept.values()), vectors, recipe.max_moved, recipe.seed)
    if not read["validation"].rows:
        raise DataError(f"no validation text of {dataset.name} has a token; give more texts")
    progress(f"the router finds {fitted.found:.0%} of the texts and takes {fitted.moved:.1%} of the old ones")

    trained_at = time.monotonic()
    domain = trained_domain(
        model, name, dataset, read, cut, fitted,
        kind=DEFAULT, epochs=recipe.epochs, rate=recipe.learning_rate, seed=recipe.seed, dtype=dtype,
    )  # fmt: skip
    seconds = {"training": round(time.monotonic() - trained_at, 1)}
    before = Engine(present or model, loaded.tokenizer, precision=recipe.precision)
    domain, temperature = calibrated(domain, model, before, dataset, dtype)
    tops = [*([] if present is None else present.domains), domain]
    after = before.with_model(RoutedClassifier(model, tops, dtype))
    alone = before.with_model(RoutedClassifier(model, tops, dtype, fixed=name))
    held = "test" if "test" in dataset.splits else "validation"
    receipt = {
        "name": name,
        "max_moved": recipe.max_moved,
        "kept": effect_on_kept(kept, fitted),
        "base_moved_in_all": moved_in_all(kept[BASE], present, fitted),
        "router": {"moved": fitted.moved, "found": fitted.found},
        "domain": {"split": held} | on_own_texts(before, alone, after, dataset.splits[held], dataset.label_names),
    }
    if old.training_texts:
        receipt["training_texts"] = effect_on_unmoved(before, after, old.training_texts, recipe.precision)
    if old_texts is not None and old_texts.texts:
        receipt["old_texts"] = effect_on_old(before, after, old_texts, recipe.precision)
    check_moved(receipt)
    seconds["all"] = round(time.monotonic() - started, 1)
    receipt |= {"temperature": temperature, "seconds": seconds, "versions": versions(), "hardware": hardware()}
    about = {
        "name": name, "number": _next_number(folder, there), "kind": DEFAULT, "data": dataset.name,
        "data_sha256": dataset.sha256,
        "parameters": sum(each.numel() for each in domain.updates.values()),
    }  # fmt: skip
    _check_unchanged(folder, there, weights)
    seen = SeenTexts.of(text for split in ("train", "validation") for text in dataset.splits[split].texts)
    with writes(output or folder), _target(folder, output) as target:
        if BASE in kept and not there:
            save_kept(target, kept[BASE])
        save_domain(target, domain, some(vectors, recipe.seed), about, receipt, seen)
    return receipt


def _check(folder: Path, name: str, recipe: Recipe, output: Path | None) -> None:
    """Raises ConfigError for what is wrong before anything is read."""
    if not NAME.fullmatch(name) or name in (BASE, BASE_VECTORS):
        raise ConfigError(
            f"name={name!r} must begin with a lower-case letter or digit, go on with these, '.', '_' or '-', and not "
            f"be {BASE!r}, which is the model itself, or {BASE_VECTORS!r}, a file of it"
        )
    if name in domain_names(folder):
        raise ConfigError(f"{folder} has a domain {name!r} already; remove it first, or choose another name")
    if not 0 <= recipe.max_moved <= 1:
        raise ConfigError(f"max_moved={recipe.max_moved:g} must be a share from 0 to 1")
    if (recipe.epochs is not None and recipe.epochs < 1) or recipe.layers < 1 or not recipe.learning_rate > 0:
        raise ConfigError("epochs and layers must be 1 or more, and learning_rate above 0")
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} is not empty; choose another folder")


def _check_unchanged(folder: Path, there: Sequence[str], weights: str) -> None:
    """Raises ConfigError where another process added or removed a domain, or wrote other weights: all for nothing."""
    if weights_hash(folder) != weights:
        raise ConfigError(f"the weights of {folder} changed meanwhile, and the domain fits the old ones; run it again")
    if (now := domain_names(folder)) != there:
        before, after = (", ".join(names) or "none" for names in (there, now))
        raise ConfigError(
            f"the domains of {folder} changed meanwhile (before: {before}; now: {after}), and the new router does "
            "not know them; run the command again"
        )


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
