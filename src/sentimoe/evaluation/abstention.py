"""Abstention: from what confidence on a model may answer, so that its answers are right as often as was asked for.

Legend: B texts.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import KFold

from ..errors import ConfigError, DataError, ModelFolderError
from ..manifest import MANIFEST, sha256
from ..model_folder import DOMAINS, THRESHOLD
from ..records import read_json, write_json
from .binomial import last_within, least_trials, lower_bound, needed_trials

logger = logging.getLogger(__name__)
FEW, FOLDS = 1000, 5  # of fewer texts, accuracy and coverage are cross-fitted
SURE_ENOUGH = 50  # texts, with which the search starts: the surest few of a weak model are right by luck
# from strict to loose, the same for all data: thresholds that were chosen by the labels would break the guarantee
THRESHOLDS = (*(1 - step / 1000 for step in range(1, 10)), *(1 - step / 200 for step in range(2, 200)))


@dataclass(frozen=True)
class Threshold:
    """From which confidence on to answer.

    value: 0 .. 1; a text whose highest probability is lower gets no label. accuracy, coverage: of the texts that it was
    chosen on, among the answered ones (None where there are none) and the share of these. estimated: there were fewer
    than 1,000, so that both are cross-fitted: each fifth is answered at the threshold that the other four choose; both
    are None where four fifths are too few to choose one.
    lower_bound: of the accuracy of this threshold, taken alone, on further texts of the same kind, one-sided, at 95%;
    what the search promises is the target. n: the texts.
    """

    value: float
    target_accuracy: float
    accuracy: float | None
    coverage: float | None
    lower_bound: float
    n: int
    estimated: bool

    def __str__(self) -> str:
        right = "" if self.accuracy is None else f", {self.accuracy:.1%} of these right"
        by = " by a cross-fitted estimate" if self.estimated else ""
        share = f"{self.n} texts are too few to estimate their share"
        if self.coverage is not None:
            share = f"{self.coverage:.1%} of {self.n} texts{right}"
        which = "all answers" if self.coverage == 1 else f"answers of {self.value:g} confidence or more"
        return (
            f"{which}:{by if self.coverage is not None else ''} {share}; among "
            f"further texts of this kind {100 * self.target_accuracy:g}% or more are right, with 95% confidence"
        )

    def save(self, folder: Path, data: str, sha256: str) -> None:
        """Write it into a model folder, with the texts that it was chosen on."""
        told = {"data": data, "sha256": sha256, "domains": _domains(folder)}
        write_json(folder / THRESHOLD, asdict(self) | told)

    @classmethod
    def load(cls, folder: Path, domain: str | None = None) -> Threshold | None:
        """That of a model folder; None where there is none. Raises ModelFolderError when it is damaged.

        domain: the only one that answers, or "base". A log line warns where others answer than did when it was found.
        """
        if not (folder / THRESHOLD).exists():
            return None
        try:
            found = read_json(folder / THRESHOLD)
            threshold = cls(**{field.name: found[field.name] for field in fields(cls)})
            sound = 0 < threshold.value <= 1
        except (ValueError, TypeError, KeyError):
            sound = False
        if not sound:
            raise ModelFolderError(
                f"{folder / THRESHOLD} is damaged; remove it, or make it again: sentimoe evaluate --save"
            )
        before, now = found.get("domains") or {}, _domains(folder)
        if before != (now if domain is None else {}) or domain not in (None, "base"):
            again = "find it again with sentimoe evaluate --save" if domain is None else "it is for the router's choice"
            logger.warning(
                "the threshold of %s was found with other domains, so its guarantee does not hold; %s", folder, again
            )
        return threshold


def _domains(folder: Path) -> dict[str, str | None]:
    """Those of a model folder, each with the hash of what its manifest lists."""
    manifests = [path / MANIFEST for path in (folder / DOMAINS).glob("[!.]*") if path.is_dir()]
    return {path.parent.name: sha256(path) if path.exists() else None for path in manifests}


def find_threshold(confidence: ArrayLike, right: ArrayLike, target_accuracy: float) -> Threshold | None:
    """The loosest threshold at which the accuracy of the answers is at least the target, with 95% confidence.

    Thresholds are tested from strict to loose, each with an exact binomial bound, and the search stops at the first
    failure (`last_within`): the whole search promises too much in at most 5% of all data sets. Thresholds that few
    texts reach are passed over, because two errors among them would end the search: it starts where as many texts are
    answered as show the target when half of the errors that it allows occur, at least 50, or half of all texts where
    that is fewer.

    Args:
        confidence: [B] float, the highest probability of each text; NaN for an unanswered one.
        right: [B] bool, whether the label with that probability is the true one. Texts that nothing was trained,
            selected or calibrated on.
        target_accuracy: above 0 and below 1.

    Returns:
        None where no threshold is good enough.

    Raises:
        ConfigError: a target outside the range.
        DataError: too few texts for any promise, or shapes that do not fit.
    """
    if not 0 < target_accuracy < 1:
        raise ConfigError(f"target_accuracy={target_accuracy!r} must lie between 0 and 1, such as 0.95")
    sure, correct = _read(confidence, right)
    if len(sure) < (least := least_trials(1 - target_accuracy)):
        raise DataError(
            f"{len(sure)} labelled texts cannot show an accuracy of {target_accuracy:g}: even without an error it "
            f"takes {least}; give more texts or a lower target"
        )
    found = _search(sure, correct, target_accuracy)
    if found is None:
        return None
    value, bound = found
    few = len(sure) < FEW
    answered = _cross_fitted(sure, correct, target_accuracy) if few else sure >= value
    if answered is None:
        return Threshold(value, target_accuracy, None, None, bound, len(sure), few)
    accuracy = float(correct[answered].mean()) if answered.any() else None
    return Threshold(value, target_accuracy, accuracy, float(answered.mean()), bound, len(sure), few)


def _search(
    sure: NDArray[np.float64], correct: NDArray[np.bool_], target_accuracy: float
) -> tuple[float, float] | None:
    """The loosest threshold before the first failure, and the bound of its accuracy."""
    wrong = 1 - target_accuracy
    order = np.argsort(-sure[~np.isnan(sure)], kind="stable")
    ranked, errors = sure[~np.isnan(sure)][order], np.cumsum(~correct[~np.isnan(sure)][order])
    answered = np.searchsorted(-ranked, -np.array(THRESHOLDS), side="right")
    counts = {
        value: (int(errors[count - 1]) if count else 0, count)
        for value, count in zip(THRESHOLDS, answered.tolist(), strict=True)
    }
    start = _start(len(sure), target_accuracy)
    values = [value for value, (_, count) in counts.items() if count >= start]
    place = last_within((counts[value] for value in values), wrong)
    if place is None:
        return None
    wrong_ones, count = counts[values[place]]
    return values[place], lower_bound(count - wrong_ones, count)


def _start(count: int, target_accuracy: float) -> int:
    """How many of the surest texts the search begins with."""
    wrong = 1 - target_accuracy
    return max(least_trials(wrong), min(max(needed_trials(wrong, 0.5), SURE_ENOUGH), count // 2))


def why_no_threshold(confidence: ArrayLike, right: ArrayLike, target_accuracy: float) -> str:
    """Why `find_threshold` finds none, and what to do, in words. Takes what it takes."""
    sure, correct = _read(confidence, right)
    order = np.argsort(-np.nan_to_num(sure, nan=-1.0), kind="stable")
    first = min(_start(len(sure), target_accuracy), len(sure))
    surest, all_right = correct[order[:first]].mean(), correct.mean()
    said = (
        f"no threshold promises an accuracy of {target_accuracy:g}: of the {first} surest answers, with which the "
        f"search starts, {surest:.1%} are right, of all {len(sure)} {all_right:.1%}"
    )
    if surest <= all_right:
        return f"{said}. The confidence of this model says little on these texts, so no threshold helps"
    if surest > target_accuracy:
        return f"{said}. That is close: more labelled texts may show it, or give a lower target"
    return f"{said}. Give a lower target, or train on more labelled texts"


def _cross_fitted(
    sure: NDArray[np.float64], correct: NDArray[np.bool_], target_accuracy: float
) -> NDArray[np.bool_] | None:
    """Which texts are answered, [B], when each fifth gets the threshold that the other four choose.

    None where four fifths are too few to choose one.
    """
    if len(sure) * (FOLDS - 1) // FOLDS < least_trials(1 - target_accuracy) or len(sure) < FOLDS:
        return None
    answered = np.zeros(len(sure), dtype=bool)
    for chosen_on, held_out in KFold(FOLDS, shuffle=True, random_state=0).split(sure):
        found = _search(sure[chosen_on], correct[chosen_on], target_accuracy)
        if found is not None:
            answered[held_out] = sure[held_out] >= found[0]
    return answered


def risk_coverage(confidence: ArrayLike, right: ArrayLike) -> dict[str, Any]:
    """How the share of wrong answers falls when the least confident texts get none.

    Source: Geifman & El-Yaniv 2017, "Selective Classification for Deep Neural Networks".

    Args:
        confidence, right: as :func:`find_threshold` takes them.

    Returns:
        ``coverage`` and ``risk``: at most 100 points each, by rising coverage, texts of equal confidence together.
        ``aurc``: the area under the curve, 0 .. 1; None where no text is answered.

    Raises:
        DataError: shapes that do not fit.
    """
    sure, correct = _read(confidence, right)
    order = np.argsort(-sure, kind="stable")
    order = order[~np.isnan(sure[order])]
    if not len(order):
        return {"coverage": [], "risk": [], "aurc": None}
    ends = np.flatnonzero(np.append(np.diff(sure[order]) != 0, True))
    risk = np.cumsum(~correct[order])[ends] / (ends + 1)
    shown = np.unique(np.linspace(0, len(ends) - 1, 100).round().astype(int))
    return {
        "coverage": ((ends[shown] + 1) / len(sure)).tolist(),
        "risk": risk[shown].tolist(),
        "aurc": float(np.average(risk, weights=np.diff(ends, prepend=-1))),
    }


def _read(confidence: ArrayLike, right: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    sure, correct = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    if sure.ndim != 1 or sure.shape != correct.shape:
        raise DataError(f"confidence has shape {sure.shape}, right {correct.shape}; give one of each for every text")
    return sure, correct
