"""What a new domain does: to its own texts, and to those that the model answered before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import Split
from ..data.text import listed
from ..errors import DataError, NotSupportedError
from ..evaluation import classification_metrics
from ..inference import Engine, RoutedClassifier
from ..predictions import Predictions
from .router import Fitted

KEYS = ("accuracy", "f1_weighted")
PROBED = 256  # texts whose answers are compared bit for bit


@dataclass(frozen=True)
class OldTexts:
    """Texts of the kind that the model answers already. labels: the name of each text's, where they are known."""

    texts: list[str]
    labels: list[str] | None = None


def check_old_labels(old: OldTexts | None, names: Sequence[str]) -> None:
    """Raises DataError for labels of old texts that the model does not have: all would count as wrong."""
    if old is not None and (other := sorted(set(old.labels or ()) - set(names))):
        raise DataError(
            f"the old texts have the labels {listed(other)}, and the model answers {listed(names)}; write them as the "
            "model does, or leave the labels out"
        )


def effect_on_kept(kept: Mapping[str, np.ndarray], fitted: Fitted) -> dict[str, Any]:
    """How many of the vectors that are kept of each old part the router takes."""
    moved = {of: vectors @ fitted.weight + fitted.bias > 0 for of, vectors in kept.items()}
    return {of: {"vectors": len(each), "moved": float(each.mean())} for of, each in moved.items()}


def moved_in_all(base: np.ndarray, present: RoutedClassifier | None, fitted: Fitted) -> float:
    """The share of the kept vectors of the base that any domain takes, the new one too."""
    taken = base @ fitted.weight + fitted.bias > 0
    if present is not None:
        taken |= (present.scores(base.astype(np.float32)) > 0).any(axis=1)
    return float(taken.mean())


def check_moved(receipt: Mapping[str, Any]) -> None:
    """Raises NotSupportedError where more old texts go to the new domain than allowed."""
    shares = [each["moved"] for each in receipt["kept"].values()] + [receipt.get("old_texts", {}).get("share", 0.0)]
    if max(shares) > receipt["max_moved"]:
        raise NotSupportedError(
            f"{max(shares):.1%} of old texts would go to {receipt['name']}, more than max_moved="
            f"{receipt['max_moved']:g}; nothing was added. Allow more, or give --unlabelled texts that show better "
            "what the domain is"
        )


def effect_on_old(before: Engine, after: Engine, old: OldTexts, precision: str) -> dict[str, Any]:
    """How many old texts the new domain, the last one of `after`, takes; with labels what that does to their scores."""
    first, second = before.predict(old.texts), after.predict(old.texts)
    moved = _taken(second, len(after.model.names) - 1)
    found: dict[str, Any] = {"texts": len(moved), "moved": int(moved.sum()), "share": float(moved.mean())}
    unmoved = [old.texts[row] for row in np.flatnonzero(~moved)]
    found["identical"] = effect_on_unmoved(before, after, unmoved, precision)["identical"]
    if old.labels is not None:
        found["before"] = scores(before, first, old.labels)
        found["after"] = scores(after, second, old.labels)
    return found


def effect_on_unmoved(before: Engine, after: Engine, texts: Sequence[str], precision: str) -> dict[str, Any]:
    """Whether those of the first texts that the new domain, the last one of `after`, leaves are answered as before.

    Long ones are cut: of windows that the router would send elsewhere by themselves, a batch runs without some rows.
    """
    before, after = (
        Engine(each.model, each.tokenizer, precision=precision, long_texts="truncate") for each in (before, after)
    )
    texts = list(texts[:PROBED])
    unmoved = ~_taken(after.predict(texts), len(after.model.names) - 1)
    left = [texts[row] for row in np.flatnonzero(unmoved)]
    return {"texts": len(left), "identical": identical(before, after, left)}


def identical(before: Engine, after: Engine, texts: Sequence[str]) -> bool:
    """Whether texts that go where they went before are answered alike, bit for bit, in batches of their own."""
    columns = [after.label_names.index(label) for label in before.label_names]
    one, other = before.predict_proba(texts), after.predict_proba(texts)
    return bool(np.array_equal(one, other[:, columns], equal_nan=True))


def on_own_texts(before: Engine, alone: Engine, after: Engine, split: Split, names: Sequence[str]) -> dict[str, Any]:
    """Scores on texts that the domain was not trained on, by the model as it was, by the domain, and as routed."""
    labels = [names[label] for label in split.labels]
    answered = after.predict(split.texts)
    found: dict[str, Any] = {
        "texts": len(labels),
        "found": float(_taken(answered, len(after.model.names) - 1).mean()),
        "domain": scores(alone, alone.predict(split.texts), labels),
        "routed": scores(after, answered, labels),
    }
    if set(names) <= set(before.label_names):
        found["before"] = scores(before, before.predict(split.texts), labels)
    return found


def scores(engine: Engine, predictions: Predictions, labels: Sequence[str]) -> dict[str, float]:
    """Accuracy and weighted F1. labels: names, of which the engine may lack some."""
    names = [*engine.label_names, *sorted(set(labels) - set(engine.label_names))]
    probabilities = np.zeros((len(labels), len(names)), dtype=np.float32)
    probabilities[:, : engine.num_labels] = predictions.probabilities
    probabilities[np.isnan(probabilities[:, 0])] = np.nan  # blank
    found = classification_metrics(np.array([names.index(label) for label in labels]), probabilities, names)
    return {key: float(found[key]) for key in KEYS}


def _taken(predictions: Predictions, domain: int) -> np.ndarray:
    assert predictions.domains is not None
    return predictions.domains == domain
