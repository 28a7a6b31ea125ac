"""The search for the fastest way of running a classifier whose answers stay those of the original."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import NotSupportedError
from ..evaluation import interleaved, predicted_labels, ratio
from ..inference import Engine, Windows, make_windows
from .certificate import last_certified, upper_bound
from .texts import Parts
from .thresholds import settings
from .variants import TOKENS_PER_BATCH, Lever, Variant, averaged, build

TOLERANCES = (0.005, 0.01, 0.02)
MARGIN = 0.6  # share of the tolerance that a setting may use on the texts that choose: what they show is no promise
TIMED_TEXTS, ROUNDS, FINAL_ROUNDS = 512, 3, 9


@dataclass(frozen=True)
class Certificate:
    """What is promised of one tolerance.

    tolerance: the share of further texts of the same kind whose label may be another than the original's. thresholds:
    from which confidence on texts leave after each cut. differ, texts: how many labels are others, of the texts that
    certify. upper_bound: of the rate, one-sided, exact, at 95%. mean_layers: that read a text. shares: of the texts, by
    the layer after which they leave.
    """

    tolerance: float
    thresholds: tuple[float, ...]
    differ: int
    texts: int
    upper_bound: float
    mean_layers: float
    shares: dict[str, float]


@dataclass(frozen=True)
class Found:
    """The result of a search. trials: what each lever showed on the texts that choose. speed: of the default."""

    variant: Variant
    certificates: list[Certificate]
    trials: list[dict[str, Any]]
    speed: dict[str, Any]
    original: dict[str, Any]


class Search:
    """Texts, the original's answers to them in float32, and the original as it would run otherwise."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        parts: Parts,
        *,
        tolerance: float = 0.01,
        minutes: float = 10.0,
        seed: int = 0,
        progress: Callable[[str], None] = lambda line: None,
    ):
        self.model, self.tokenizer, self.parts, self.tolerance, self.seed = model, tokenizer, parts, tolerance, seed
        self.progress, self.minutes = progress, minutes
        exact = Engine(model, tokenizer, precision="float32")
        self.max_length = exact.max_length
        progress(f"the original answers {len(parts.learn) + len(parts.choose) + len(parts.certify)} texts in float32")
        self.learn, self.choose, self.certify = (
            make_windows(texts, tokenizer, self.max_length) for texts in (parts.learn, parts.choose, parts.certify)
        )
        self.taught = exact.window_probabilities(self.learn)
        self.chosen = exact.window_probabilities(self.choose)
        certified = exact.window_probabilities(self.certify)
        self.true = predicted_labels(self.certify.averaged(certified, len(parts.certify)))
        self.original = Engine(model, tokenizer, backend="openvino", tokens_per_batch=TOKENS_PER_BATCH)

    def run(self, levers: Sequence[Lever]) -> Found:
        """Try the levers in order while there is time, certify the fastest, time it beside the original.

        Raises NotSupportedError where nothing that was tried could be certified.
        """
        started = time.monotonic()
        trials: list[dict[str, Any]] = []
        best: tuple[float, Variant, list[tuple[float, ...]]] | None = None
        for lever in levers:
            used = (time.monotonic() - started) / 60
            if trials and used + used / len(trials) > self.minutes:
                trials.append({"lever": asdict(lever), "tried": False})
                self.progress(f"{lever}: left out, it does not fit into {self.minutes:g} minutes")
                continue
            variant = self.built(lever)
            steps, trial = self.tried(variant)
            trials.append(trial)
            self.progress(f"{lever}: {trial['speed']['ratio']:.2f} times as fast, {trial['differ']:.2%} other answers")
            if trial["within"] and (best is None or trial["speed"]["ratio"] > best[0]):
                best = trial["speed"]["ratio"], variant, steps
        if best is None:
            raise NotSupportedError(
                f"no lever keeps within {self.tolerance:g} other answers on the texts that choose; raise "
                "--max-disagreement, or give more texts like those that the model will read"
            )
        _, variant, steps = best
        certificates = self.certified(variant, steps)
        if not any(each.tolerance == self.tolerance for each in certificates):
            raise NotSupportedError(
                f"{len(self.parts.certify)} texts do not certify a tolerance of {self.tolerance:g} for "
                f"{variant.lever}; give more texts, or raise --max-disagreement"
            )
        main = next(each for each in certificates if each.tolerance == self.tolerance)
        self.progress("timing the result beside the original")
        speed = self.timed(variant, main.thresholds, FINAL_ROUNDS)
        return Found(variant, certificates, trials, speed, self.original_disagreement())

    def built(self, lever: Lever) -> Variant:
        """The variant of a lever."""
        return build(
            self.model, lever, self.learn, self.taught,
            padding=self.tokenizer.pad_token_id, max_length=self.max_length, seed=self.seed, progress=self.progress,
        )  # fmt: skip

    def tried(self, variant: Variant) -> tuple[list[tuple[float, ...]], dict[str, Any]]:
        """Thresholds from the safest to the fastest, and what the variant does on the texts that choose."""
        answers = variant.answers(self.choose)
        own = self.chosen.argmax(axis=1)
        steps = settings(answers.max(axis=2), answers.argmax(axis=2) != own)
        count = len(self.parts.choose)
        labels = predicted_labels(self.choose.averaged(self.chosen, count))
        rates = [self._differ(answers, step, self.choose, count, labels).mean() for step in steps]
        allowed = [index for index, rate in enumerate(rates) if rate <= MARGIN * self.tolerance]
        place = max(allowed, default=0)
        return steps, {
            "lever": asdict(variant.lever),
            "tried": True,
            "within": bool(allowed),
            "differ": float(rates[place]),
            "speed": self.timed(variant, steps[place], ROUNDS),
        }

    def certified(self, variant: Variant, steps: Sequence[tuple[float, ...]]) -> list[Certificate]:
        """The fastest certified setting for each tolerance; of those that none holds, no certificate."""
        answers = variant.answers(self.certify)
        count = len(self.parts.certify)
        differs = np.stack([self._differ(answers, step, self.certify, count, self.true) for step in steps])
        found = []
        for tolerance in sorted({*TOLERANCES, self.tolerance}):
            place = last_certified(differs, tolerance)
            while place is not None:  # as texts are really run, the batches are others
                certificate = self._certificate(variant, steps[place], tolerance, differs[place])
                if certificate.upper_bound <= tolerance:
                    found.append(certificate)
                    break
                place = place - 1 if place else None
        return found

    def _certificate(
        self, variant: Variant, thresholds: tuple[float, ...], tolerance: float, differs: np.ndarray
    ) -> Certificate:
        """Counts what differs when all layers read every text, and what differs when texts leave."""
        engine = Engine(variant.with_thresholds(thresholds), self.tokenizer, tokens_per_batch=TOKENS_PER_BATCH)
        predictions = engine.predict(self.parts.certify)
        count = int((differs | (predicted_labels(predictions.probabilities) != self.true)).sum())
        layers = predictions.layers
        assert layers is not None
        return Certificate(
            tolerance=tolerance,
            thresholds=thresholds,
            differ=count,
            texts=len(differs),
            upper_bound=upper_bound(count, len(differs)),
            mean_layers=float(layers.mean()),
            shares={str(stop): float((layers == stop).mean()) for stop in variant.classifier.layers.tolist()},
        )

    def timed(self, variant: Variant, thresholds: tuple[float, ...], rounds: int) -> dict[str, Any]:
        """How many times as fast as the original on the same texts, tokenising included."""
        texts = self.parts.choose[:TIMED_TEXTS]
        fast = Engine(variant.with_thresholds(thresholds), self.tokenizer, tokens_per_batch=TOKENS_PER_BATCH)
        seconds = interleaved(
            {"original": lambda: self.original.predict_proba(texts), "fast": lambda: fast.predict_proba(texts)}, rounds
        )
        return ratio(seconds["original"], seconds["fast"]) | {
            "texts": len(texts),
            "texts_per_second": len(texts) / median(seconds["fast"]),
            "original_texts_per_second": len(texts) / median(seconds["original"]),
        }

    def original_disagreement(self) -> dict[str, Any]:
        """How often the original itself answers otherwise in the precision that it runs in."""
        labels = predicted_labels(self.original.predict_proba(self.parts.certify))
        return {"differ": int((labels != self.true).sum()), "texts": len(self.true)}

    def _differ(
        self, answers: np.ndarray, thresholds: tuple[float, ...], windows: Windows, count: int, labels: np.ndarray
    ) -> np.ndarray:
        return predicted_labels(averaged(answers, thresholds, windows, count)) != labels


def default_levers(num_layers: int, exits: bool = True, int8: bool = True) -> list[Lever]:
    """What is tried, the likeliest winner first: early exits and 8 bits together, other cuts, each lever alone."""
    thirds = tuple(sorted({max(1, num_layers // 6), max(1, num_layers // 2)} - {num_layers}))
    more = tuple(sorted({max(1, part * num_layers // 6) for part in (1, 2, 4)} - {num_layers}))
    cuts = [thirds, more] if exits and num_layers > 1 else []
    levers = [Lever(each, bits) for bits in ((True, False) if int8 else (False,)) for each in dict.fromkeys(cuts)]
    if int8:
        levers.insert(2, Lever((), True))
    return levers
