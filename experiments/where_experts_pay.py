"""What docs/where-experts-pay.md shows: students on many texts, and models of sixteen domains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from sentimoe.errors import ConfigError
from sentimoe.evaluation import holm, paired_bootstrap, paired_t
from sentimoe.records import read_json

from .domains import LEFT_OUT
from .many_texts import BATCH_SIZES, DATA, FACTORS, ROWS, SEEDS, TUNED, TUNING_SEEDS, TUNING_SIZE
from .tables import Results, Stored, paired

RESAMPLES, MODEL = 2000, "all-MiniLM-L6-v2"
DOMAIN_ROWS = (
    ("dense", "fdu-mtl", "full", "default"),
    ("gated experts, chosen per token", "fdu-mtl", "moe-gated", "default"),
    ("gated experts, chosen per text", "fdu-mtl", "moe-gated", "chosen-per-text"),
    ("LoRA", "fdu-mtl", "lora", "default"),
    ("dense, trained on eight of the domains", "fdu-mtl-of-eight", "full", "default"),
)
EXPERTS = ("plain-1-of-8", "gated-2-of-4")  # of which the rule speaks
ALONE = (("a dense model of each domain", "full"), ("LoRA of each domain", "lora"))


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
    held_out = [
        {"row": row, "kl": mean(record["held_out"]["kl"] for record in _trials(folder, row, best))}
        for row in TUNED
        if (own := [each for each in trials if each["row"] == row])
        for best in [min(own, key=lambda each: each["kl"])["factor"]]
    ]
    bends = {row: bend for row in TUNED if (bend := _bend([each for each in trials if each["row"] == row]))}
    verdict = verdicts(rows)
    sizes = [size for size in BATCH_SIZES if sum(each["size"] == size for each in verdict) < len(EXPERTS)]
    told = {
        "verdicts": verdict,
        "undecided": sizes,
        "trials": trials,
        "held_out": held_out,
        "bends": bends,
        "tuning_size": TUNING_SIZE,
    }
    return told | {
        "rows": rows,
        "machines": sorted({_machine(each) for each, _ in records}),
    }


def _how(record: dict[str, Any]) -> tuple[Any, ...]:
    """What the seeds of a row have in common."""
    return (*(record[key] for key in ("learning_rate", "epochs", "batch_size")), _machine(record))


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
        if seeds < len(SEEDS) and not any(each["first"] == SEEDS[0] and each["of_seeds"][0] <= 0 for each in less):
            continue
        excluded = seeds == len(SEEDS) and all(each["interval"][0] > 0 for each in less)
        p = 1.0 if seeds < len(SEEDS) else max(1.0 if each["p_value"] is None else each["p_value"] for each in less)
        found.append({"row": row["row"], "size": row["size"], "seeds": seeds, "excluded": excluded, "p": p})
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


def domains(results: Results, places: Sequence[str]) -> list[dict[str, Any]]:
    """Accuracy on all test texts of fdu-mtl, which has 400 of each domain, and its difference to the dense model.

    places: the domain of each test text.
    """
    dense, rows = results.cells.get(("fdu-mtl", MODEL, "full", "default"), []), []
    for title, data, method, recipe in DOMAIN_ROWS:
        if runs := results.cells.get((data, MODEL, method, recipe), []):
            row: dict[str, Any] = {
                "title": title,
                "seeds": len(runs),
                "accuracy": mean(run.record["test"]["accuracy"] for run in runs),
                "gflops": runs[0].record["cost"]["gflops_per_text"],
                "machine": _machine(runs[0].record),
            }
            if runs is not dense and data == "fdu-mtl" and (pairs := paired(runs, dense)):
                row["less"] = _difference(pairs, np.ones(len(runs[0].labels), dtype=bool))
                if title.startswith("gated"):
                    row["pays"] = row["less"]["interval"][0] > 0 if len(pairs) >= len(SEEDS) else None
            rows.append(row)
    alone = (_of_each(results, title, method, dense, np.array(places)) for title, method in ALONE)
    return rows + [each for each in alone if each is not None]


def _of_each(
    results: Results, title: str, method: str, dense: Sequence[Stored], places: np.ndarray
) -> dict[str, Any] | None:
    """A model of each domain, beside the dense model of all; None until every domain has the seeds of that one."""
    names = sorted(set(places))
    cells = {name: results.cells.get((f"fdu-mtl-{name}", MODEL, method, "default"), []) for name in names}
    seeds = {run.record["seed"] for run in dense}
    if not names or not seeds or any({run.record["seed"] for run in runs} != seeds for runs in cells.values()):
        return None
    order = np.concatenate([np.flatnonzero(places == name) for name in names])
    labels = np.concatenate([cells[name][0].labels for name in names])
    if not np.array_equal(labels, dense[0].labels[order]):
        raise ConfigError("the test texts of single domains are not those of fdu-mtl; write the domains again")
    ours = np.stack([np.concatenate([cells[name][each].predictions for name in names]) for each in range(len(seeds))])
    theirs = np.stack([run.predictions[order] for run in dense])
    runs = [run for name in names for run in cells[name]]
    return {
        "title": title,
        "seeds": len(seeds),
        "accuracy": float((ours == labels).mean()),
        "gflops": mean(run.record["cost"]["gflops_per_text"] for run in runs),
        "machine": _machine(runs[0].record),
        "less": paired_bootstrap(labels, ours, theirs, metric="accuracy", paired_seeds=True),
    }


def _machine(record: dict[str, Any]) -> str:
    hardware = record["hardware"]
    return hardware.get("gpu") or hardware["processor"]


def left_out(results: Results, places: list[str]) -> dict[str, Any] | None:
    """Accuracy on the domains that training left out, dense and with experts, and the difference; None until both ran.

    places: the domain of each test text.
    """
    runs = [results.cells.get(("fdu-mtl-of-twelve", MODEL, name, "default"), []) for name in ("full", "moe-gated")]
    if not all(runs):
        return None
    dense, gated = runs
    if not (pairs := paired(gated, dense)):
        return None
    chosen = np.isin(places, LEFT_OUT)
    found = _difference(pairs, chosen)
    of_seeds = [_difference([pair], chosen)["difference"] for pair in pairs]
    decided, behind = len(pairs) >= len(SEEDS), found["difference"] <= 0
    pays = found["interval"][0] > 0 if decided else False if behind else None
    of = {"seeds": len(pairs), "texts": int(chosen.sum()), "domains": LEFT_OUT}
    return of | {"difference": found, "of_seeds": of_seeds, "pays": pays}


def beside_ready(rows: Sequence[dict[str, Any]], ready: dict[str, Any]) -> dict[str, Any] | None:
    """The student that is best on validation beside the ready model, which it replaces if it is better there.

    rows: those of `many_texts`. ready: the record of the ready model of the same data.
    """
    if not rows:
        return None
    best = max(rows, key=lambda row: row["validation"])
    theirs = {"validation": ready["validation"]["f1_weighted"], "f1_weighted": ready["scores"]["f1_weighted"]}
    return {"student": best, "ready": theirs, "replaces": best["validation"] > theirs["validation"]}


def paid(found: dict[str, Any]) -> list[str]:
    """Where experts pay by the rules, of all that the page shows."""
    places = [f"{each['row']} on {each['size']:,} texts" for each in found["many"]["verdicts"] if each["pays"]]
    places += [f"sixteen domains, {row['title']}" for row in found["domains"] if row.get("pays")]
    if found["left_out"] and found["left_out"]["pays"]:
        places.append("domains that were left out of training")
    if found["added"] and found["added"]["pays"]:
        places.append("domains that are added later")
    return places


def not_run(found: dict[str, Any]) -> list[str]:
    """What the page declares about many domains, and no result is there."""
    titles = {row["title"] for row in found["domains"]}
    missing = [
        title for title in (*(row[0] for row in DOMAIN_ROWS), *(title for title, _ in ALONE)) if title not in titles
    ]
    others = {"domains that were left out": found["left_out"], "different label sets in one pass": found["trunk"]}
    return missing + [what for what, there in others.items() if not there]


def _difference(pairs: Sequence[tuple[Stored, Stored]], chosen: np.ndarray) -> dict[str, Any]:
    """Accuracy of the first less that of the second on the chosen test texts `[B]`, over texts and seeds."""
    ours, theirs = (np.stack([pair[side].predictions[chosen] for pair in pairs]) for side in (0, 1))
    return paired_bootstrap(pairs[0][0].labels[chosen], ours, theirs, metric="accuracy", paired_seeds=True)
