"""The search for the fastest way of running a classifier whose answers stay those of the original."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from statistics import median
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import NotSupportedError
from ..evaluation import interleaved, last_within, predicted_labels, ratio, upper_bound
from ..inference import Engine, Windows, make_windows
from .certificate import Certificate
from .texts import TOLERANCES, Parts
from .thresholds import NEVER, settings
from .variants import TOKENS_PER_BATCH, Lever, Variant, averaged, build

MARGIN = 0.6  # share of the tolerance that a setting may use on the texts that choose: what they show is no promise
TESTED = tuple(step / 20 for step in range(6, 21))  # shares of a tolerance at which settings are tried to certify it
TIMED_TEXTS, ROUNDS, FINAL_ROUNDS = 1024, 3, 9


@dataclass(frozen=True)
class Found:
    """The result of a search. main: the certificate of the tolerance that was asked for. trials: what each lever showed
    on the texts that choose. speed: under `main`. all_layers: how many labels of the texts that certify differ where
    nobody leaves."""

    variant: Variant
    certificates: list[Certificate]
    main: Certificate
    all_layers: dict[str, int]
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
        self.progress, self.minutes, self.started = progress, minutes, time.monotonic()
        exact = Engine(model, tokenizer, precision="float32")
        self.max_length = exact.max_length
        progress(f"the original answers {len(parts.learn) + len(parts.choose) + len(parts.certify)} texts in float32")
        self.learn, self.choose, self.certify = (
            make_windows(texts, tokenizer, self.max_length) for texts in (parts.learn, parts.choose, parts.certify)
        )
        self.taught = exact.window_probabilities(self.learn)
        self.chosen = exact.window_probabilities(self.choose)
        certified = self.certify.averaged(exact.window_probabilities(self.certify), len(parts.certify))
        self.true, self.sure = predicted_labels(certified), certified.max(axis=1)
        self.original = Engine(model, tokenizer, backend="openvino", tokens_per_batch=TOKENS_PER_BATCH)

    def run(self, levers: Sequence[Lever]) -> Found:
        """Try the levers in order while there is time, certify the fastest, time it beside the original.

        Raises NotSupportedError where nothing that was tried could be certified.
        """
        trials: list[dict[str, Any]] = []
        best: tuple[float, Variant, list[tuple[float, ...]], list[float]] | None = None
        began = time.monotonic()
        for lever in levers:
            used, done = (time.monotonic() - began) / 60, sum(trial["tried"] for trial in trials)
            if done and (time.monotonic() - self.started) / 60 + used / done > self.minutes:
                trials.append({"lever": asdict(lever), "tried": False})
                self.progress(f"{lever}: left out, it does not fit into {self.minutes:g} minutes")
                continue
            variant = self.built(lever)
            steps, rates, trial = self.tried(variant)
            trials.append(trial)
            self.progress(f"{lever}: {trial['speed']['ratio']:.2f} times as fast, {trial['differ']:.2%} other answers")
            if trial["within"] and (best is None or trial["speed"]["ratio"] > best[0]):
                best = trial["speed"]["ratio"], variant, steps, rates
        if best is None:
            missed = [str(lever) for lever, trial in zip(levers, trials, strict=True) if not trial["tried"]]
            more = f", or allow more minutes for {' and '.join(missed)}" if missed else ""
            raise NotSupportedError(
                f"nothing that was tried changes few enough labels of the texts held out for tuning "
                f"(max_disagreement={self.tolerance:g}); raise it, or give more texts of the kind to be read{more}"
            )
        _, variant, steps, rates = best
        certificates, all_layers = self.certified(variant, steps, rates)
        if not any(each.tolerance == self.tolerance for each in certificates):
            others = " and ".join(f"{each.tolerance:g}" for each in certificates)
            raise NotSupportedError(
                f"{len(self.parts.certify)} texts do not certify max_disagreement={self.tolerance:g} for "
                f"{variant.lever}{f', but {others}' if others else ''}; raise it, or give other texts (to try the same "
                "ones until they pass would make the 95% untrue)"
            )
        main = next(each for each in certificates if each.tolerance == self.tolerance)
        self.progress("timing the result beside the original")
        speed = self.timed(variant, main.thresholds, FINAL_ROUNDS)
        return Found(variant, certificates, main, all_layers, trials, speed, self.original_disagreement())

    def built(self, lever: Lever, model: PreTrainedModel | None = None) -> Variant:
        """The variant of a lever. model: what is run faster, where it is another than the original."""
        return build(
            model or self.model, lever, self.learn, self.taught,
            padding=self.tokenizer.pad_token_id, max_length=self.max_length, seed=self.seed, progress=self.progress,
        )  # fmt: skip

    def tried(self, variant: Variant) -> tuple[list[tuple[float, ...]], list[float], dict[str, Any]]:
        """Thresholds from the safest to the fastest, the share of other answers under each, and what a trial shows."""
        steps, rates = self.steps(variant)
        allowed = [index for index, rate in enumerate(rates) if rate <= MARGIN * self.tolerance]
        place = max(allowed, default=0)
        return (
            steps,
            rates,
            {
                "lever": asdict(variant.lever),
                "tried": True,
                "within": bool(allowed),
                "differ": float(rates[place]),
                "speed": self.timed(variant, steps[place], ROUNDS),
            },
        )

    def steps(self, variant: Variant) -> tuple[list[tuple[float, ...]], list[float]]:
        """Thresholds from the safest to the fastest, and the share of other answers on the texts that choose."""
        answers, count = variant.answers(self.choose), len(self.parts.choose)
        steps = settings(answers.max(axis=2), answers.argmax(axis=2) != self.chosen.argmax(axis=1))
        labels = predicted_labels(self.choose.averaged(self.chosen, count))
        return steps, [float(self._differ(answers, step, self.choose, count, labels).mean()) for step in steps]

    def certified(
        self, variant: Variant, steps: Sequence[tuple[float, ...]], rates: Sequence[float]
    ) -> tuple[list[Certificate], dict[str, int]]:
        """The fastest certified setting for each tolerance, and the labels that differ where all layers read.

        rates: on the texts that choose. They fix which settings are tested for a tolerance, and in which order. A
        tolerance that no setting keeps has no certificate.
        """
        answers = variant.answers(self.certify)

        @cache
        def result(place: int) -> tuple[np.ndarray, np.ndarray]:
            """Of each text, whether its label differs and how many layers read it."""
            differs = self._differ(answers, steps[place], self.certify, len(self.true), self.true)
            engine = self._engine(variant, steps[place])
            run = engine.predict(self.parts.certify)  # as texts are really batched: rounding may let other texts leave
            assert run.layers is not None
            return differs | (predicted_labels(run.probabilities) != self.true), run.layers

        found = []
        for tolerance in sorted({*TOLERANCES, self.tolerance}):
            order = candidates(rates, tolerance)
            last = last_within(((int(result(place)[0].sum()), len(self.true)) for place in order), tolerance)
            if last is not None:
                found.append(self._certificate(variant, steps[order[last]], tolerance, *result(order[last])))
        nobody = self._differ(
            answers, (NEVER,) * (len(variant.classifier.layers) - 1), self.certify, len(self.true), self.true
        )
        return found, {"differ": int(nobody.sum()), "texts": len(self.true)}

    def _certificate(
        self, variant: Variant, thresholds: tuple[float, ...], tolerance: float, differs: np.ndarray, layers: np.ndarray
    ) -> Certificate:
        def counts(rows: np.ndarray) -> dict[str, int]:
            return {"differ": int(differs[rows].sum()), "texts": int(rows.sum())}

        names = self.original.label_names
        return Certificate(
            tolerance=tolerance,
            thresholds=thresholds,
            **counts(np.ones(len(differs), dtype=bool)),
            upper_bound=upper_bound(int(differs.sum()), len(differs)),
            mean_layers=float(layers.mean()),
            shares={str(stop): float((layers == stop).mean()) for stop in variant.classifier.layers.tolist()},
            by_class={name: counts(self.true == index) for index, name in enumerate(names)},
            doubtful=counts(self.sure < np.median(self.sure)),
        )

    def answers(self, found: Found) -> np.ndarray:
        """The labels that the result gives to the texts that certify, `[B]`."""
        return predicted_labels(self._engine(found.variant, found.main.thresholds).predict_proba(self.parts.certify))

    def timed(self, variant: Variant, thresholds: tuple[float, ...], rounds: int) -> dict[str, Any]:
        """How many times as fast as the original on the same texts, tokenising included."""
        texts = self.parts.choose[:TIMED_TEXTS]
        fast = self._engine(variant, thresholds)
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

    def _engine(self, variant: Variant, thresholds: tuple[float, ...]) -> Engine:
        return Engine(variant.classifier.with_thresholds(thresholds), self.tokenizer, tokens_per_batch=TOKENS_PER_BATCH)

    def _differ(
        self, answers: np.ndarray, thresholds: tuple[float, ...], windows: Windows, count: int, labels: np.ndarray
    ) -> np.ndarray:
        return predicted_labels(averaged(answers, thresholds, windows, count)) != labels


def candidates(rates: Sequence[float], tolerance: float) -> list[int]:
    """Which settings certify a tolerance, from the safest to the fastest: the fastest within each part of it.

    rates: of other answers on the texts that choose, by setting. A setting that is far too safe is not worth a test,
    and after one that is hopeless no other is reached.
    """
    within = [[place for place, rate in enumerate(rates) if rate <= part * tolerance] for part in TESTED]
    return sorted({places[-1] for places in within if places})


def default_levers(num_layers: int, exits: bool = True, int8: bool = True) -> list[Lever]:
    """What is tried, the likeliest winner first: early exits and 8 bits together, then each lever alone."""
    cuts = tuple(sorted({max(1, part * num_layers // 6) for part in (1, 2, 4)} - {num_layers}))
    able = exits and num_layers > 1
    both, eight, early = Lever(cuts, True), Lever((), True), Lever(cuts, False)
    return [*([both] if able and int8 else []), *([eight] if int8 else []), *([early] if able else [])]
