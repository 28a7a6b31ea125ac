"""What docs/where-experts-pay.md shows of students on many texts: how close they come to their teacher; verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from sentimoe.errors import ConfigError
from sentimoe.evaluation import holm, paired_bootstrap, paired_t
from sentimoe.records import read_json

from .many_texts import (
    BATCH_SIZES,
    DATA,
    FACTORS,
    HELD_OUT,
    ROWS,
    SEEDS,
    STUDENT,
    TUNED,
    TUNING_SEEDS,
    TUNING_SIZE,
    divergences,
)
from .tables import Results, machine

RESAMPLES = 2000
EXPERTS = ("plain-1-of-8", "gated-2-of-4")  # of which the rule speaks


def many_texts(folder: Path) -> dict[str, Any]:
    """Students by number of texts, each beside the dense one and the one that was trained longer; and rate trials.

    Raises ConfigError where the seeds of a row were not trained alike.
    """
    paths = sorted(folder.glob(f"students/{DATA}__*.json"))
    records = [(read_json(path), np.load(path.with_suffix(".npz"))) for path in paths]
    found: dict[tuple[int, str], dict[int, Any]] = {}
    for record, answers in records:
        found.setdefault((record["size"], record["row"]), {})[record["seed"]] = record | {
            "kl": answers["kl"].astype(np.float64), "predictions": answers["predictions"].astype(int),
            "labels": answers["labels"].astype(int) if "labels" in answers else None,
        }  # fmt: skip
    for (count, kind), seeds in found.items():
        if len({_how(each) for each in seeds.values()}) > 1:
            raise ConfigError(f"{folder}: the seeds of {kind} on {count:,} texts were trained unlike each other")
    rows = [
        {
            "size": size,
            "row": row,
            "seeds": len(runs),
            "kl": mean(each["held_out"]["kl"] for each in runs.values()),
            "f1_weighted": mean(each["test"]["f1_weighted"] for each in runs.values()),
            "validation": mean(each["validation"]["f1_weighted"] for each in runs.values()),
            "rate": next(iter(runs.values()))["learning_rate"],
            "gflops": next(iter(runs.values()))["gflops_per_text"],
            "parameters": next(iter(runs.values()))["parameters"],
            "less": {
                other: gain(found[size, other], runs)
                for other in ("dense", "dense-longer")
                if row != other and (size, other) in found
            },
        }
        for size in BATCH_SIZES
        for row in ROWS
        if (runs := found.get((size, row)))
    ]
    trials = [
        {"row": row, "factor": factor, "kl": mean(record["choice"]["kl"] for record in tried)}
        for row in TUNED
        for factor in FACTORS
        if len(tried := _trials(folder, row, factor)) == len(TUNING_SEEDS)
    ]
    best_rates = [
        {"row": row, "kl": mean(record["held_out"]["kl"] for record in _trials(folder, row, best))}
        for row in TUNED
        if (own := [each for each in trials if each["row"] == row])
        for best in [min(own, key=lambda each: each["kl"])["factor"]]
    ]
    bends = {row: bend for row in TUNED if (bend := _bend([each for each in trials if each["row"] == row]))}
    verdict, teacher = verdicts(rows), folder / f"{DATA}__teacher.npz"
    sizes = [size for size in BATCH_SIZES if sum(each["size"] == size for each in verdict) < len(EXPERTS)]
    told = {
        "verdicts": verdict,
        "undecided": sizes,
        "trials": trials,
        "held_out": best_rates,
        "bends": bends,
        "tuning_size": TUNING_SIZE,
        "teacher": None,
        "elsewhere": None,
    }
    if teacher.exists():
        answers = np.load(teacher)
        held_out = answers["probabilities"][:HELD_OUT].astype(np.float64)
        told |= {"teacher": _teacher(held_out, answers["f1_weighted"]), "elsewhere": _elsewhere(found, held_out)}
    return told | {
        "rows": rows,
        "machines": sorted({machine(each) for each, _ in records}),
    }


def _teacher(answers: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """What the teacher says of held-out texts, from its probabilities `[N, C]`, and the weighted F1 of its models.

    top, share: the class that it gives most, and to which share of the texts. constant: the divergence of its mean.
    """
    counts = np.bincount(answers.argmax(axis=1))
    constant = float(divergences(answers, np.broadcast_to(answers.mean(axis=0), answers.shape)).mean())
    top = int(counts.argmax())
    return {
        "top": top,
        "share": float(counts[top] / len(answers)),
        "constant": constant,
        "f1_weighted": scores.tolist(),
    }


def _elsewhere(found: dict[tuple[int, str], dict[int, Any]], answers: np.ndarray) -> dict[str, Any] | None:
    """How much closer the students of the most texts are than the dense one, where the teacher gives a rarer answer."""
    size = max((count for count, row in found if row == "dense"), default=0)
    given = answers.argmax(axis=1)
    rarer = given != np.bincount(given).argmax()
    shown = {row: runs for (count, row), runs in found.items() if count == size}
    if len(shown) < 2:
        return None
    cut = {row: {seed: {"kl": run["kl"][rarer]} for seed, run in runs.items()} for row, runs in shown.items()}
    rows = {row: less for row in ROWS if row in cut and row != "dense" and (less := gain(cut["dense"], cut[row]))}
    return {"size": size, "texts": int(rarer.sum()), "rows": rows}


def _how(record: dict[str, Any]) -> tuple[Any, ...]:
    """What the seeds of a row have in common."""
    return (*(record[key] for key in ("learning_rate", "epochs", "batch_size")), machine(record))


def _bend(trials: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """The factor at which a parabola through three trials is lowest, in doublings, and how much lower it is there."""
    if len(trials) != 3:
        return None
    doublings, scores = np.log2([each["factor"] for each in trials]), np.array([each["kl"] for each in trials])
    curve = np.polynomial.Polynomial.fit(doublings, scores, 2).convert()
    if curve.coef[2] <= 0:
        return None
    lowest = -curve.coef[1] / (2 * curve.coef[2])
    return {"factor": float(2**lowest), "gain": float(scores.min() - curve(lowest))}


def verdicts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By the rule, for each row of experts and size that is decided: whether they pay.

    Decided is one with all seeds beside both dense rows, or with the first seed no closer to the teacher than a dense
    row, where the other seeds are not run. p: the larger one of both paired t tests over seeds, corrected (Holm) for
    all that are declared. Those that are missing count with p = 1, so that "pays" stays true when they are done.
    """
    found = []
    for row in rows:
        less = list(row["less"].values())
        if row["row"] not in EXPERTS or len(less) < 2 or None in less:
            continue
        seeds = min(each["seeds"] for each in less)
        behind = [name for name, each in row["less"].items() if each["first"] == SEEDS[0] and each["of_seeds"][0] <= 0]
        if seeds < len(SEEDS) and not behind:
            continue
        excluded = seeds == len(SEEDS) and all(each["interval"][0] > 0 for each in less)
        p = 1.0 if seeds < len(SEEDS) else max(1.0 if each["p_value"] is None else each["p_value"] for each in less)
        told = {"row": row["row"], "size": row["size"], "seeds": seeds, "behind": behind}
        found.append(told | {"excluded": excluded, "p": p})
    missing = len(EXPERTS) * len(BATCH_SIZES) - len(found)
    corrected = holm([each["p"] for each in found] + [1.0] * missing)
    return [each | {"p": p, "pays": each["excluded"] and p < 0.05} for each, p in zip(found, corrected, strict=False)]


def _trials(folder: Path, row: str, factor: float) -> list[dict[str, Any]]:
    paths = folder.glob(f"tuning/{DATA}__{row}__n{TUNING_SIZE}__x{factor:g}__s*.json")
    return [read_json(path) for path in sorted(paths)]


def gain(dense: dict[int, Any], runs: dict[int, Any]) -> dict[str, Any] | None:
    """How much closer to the teacher than `dense`, in nats, over the seeds that both have; None without any.

    The interval is a bootstrap over texts and seeds: each resample draws the texts anew, the same for both, and of S
    pairs of seeds S - 1. f1: the same for weighted F1, where the labels of the test texts are stored.
    """
    seeds = sorted(set(dense) & set(runs))
    if not seeds:
        return None
    less = np.stack([dense[seed]["kl"] - runs[seed]["kl"] for seed in seeds])  # [S, B]
    generator = np.random.default_rng(0)
    drawn = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        texts = generator.integers(less.shape[1], size=less.shape[1])
        of = generator.integers(len(seeds), size=max(1, len(seeds) - 1))
        drawn[index] = less[of][:, texts].mean()
    low, high = np.quantile(drawn, [0.025, 0.975])
    of_seeds = less.mean(axis=1).tolist()
    tested = paired_t(
        [float(dense[seed]["kl"].mean()) for seed in seeds], [float(runs[seed]["kl"].mean()) for seed in seeds]
    )
    found: dict[str, Any] = {"difference": float(less.mean()), "interval": [float(low), float(high)]}
    found |= {"seeds": len(seeds), "first": seeds[0], "of_seeds": of_seeds, "p_value": tested["p_value"]}
    labels = next((run["labels"] for run in runs.values() if run.get("labels") is not None), None)
    if labels is not None:
        ours, theirs = (np.stack([each[seed]["predictions"] for seed in seeds]) for each in (runs, dense))
        found["f1"] = paired_bootstrap(labels, ours, theirs, metric="f1_weighted", paired_seeds=True)
    return found


def beside_ready(rows: Sequence[dict[str, Any]], ready: dict[str, Any], results: Results) -> dict[str, Any] | None:
    """The student that is best on validation beside the ready model, which it replaces if it is better there.

    And beside both, models that were trained on the labels of the teachers: dense ones, and some like the ready model.
    rows: those of `many_texts`. ready: the record of the ready model of the same data.
    """
    dense, alike = (_labelled(results, method) for method in ("full", "lora"))
    if not rows or dense is None or alike is None:
        return None
    best = max(rows, key=lambda row: row["validation"])
    theirs = {"validation": ready["validation"]["f1_weighted"], "f1_weighted": ready["scores"]["f1_weighted"]}
    replaces = best["validation"] > theirs["validation"]
    return {"student": best, "ready": theirs, "replaces": replaces, "from_labels": dense, "alike": alike}


def _labelled(results: Results, method: str) -> dict[str, Any] | None:
    """Mean weighted F1 of the student's backbone, trained on labels; None where there is none."""
    if not (runs := results.cells.get((DATA, STUDENT, method, "default"), [])):
        return None
    return {
        "seeds": len(runs),
        "f1_weighted": mean(run.record["test"]["f1_weighted"] for run in runs),
        "validation": mean(run.record["validation"]["f1_weighted"] for run in runs),
    }
