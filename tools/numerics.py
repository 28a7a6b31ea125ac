"""`make numerics`: how far a text's probabilities move with its neighbours, on real texts.

2,000 texts (tweets, sentences, reviews) are answered alone and in 20 batch mixes: batches of random sizes with random
neighbours, with surplus padding, sorted by length, and sorted by the expert that reads most of a text, so that all
neighbours crowd one expert. For each model, backend and precision the largest difference of a probability is recorded.
A token whose router prefers two experts almost equally may be sent elsewhere in another batch; texts with such a token
are counted apart, with the gap between the two. So are texts of a compressed model (`--compressed`) that leave after
other layers, with what their confidence is above the threshold.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from sentimoe import SentimentClassifier
from sentimoe.data import load_dataset
from sentimoe.inference import Engine, OpenVINOClassifier, StagedClassifier, make_windows
from sentimoe.inference.exits import softmax
from sentimoe.machine import hardware, versions
from sentimoe.records import read_json, write_json, write_text
from sentimoe.training import TrainConfig, train
from sentimoe.upcycle import moe_layers

RESULTS, PAGE = Path("results/reliability/numerics.json"), Path("docs/reliability.md")
MARKS = ("<!-- numerics -->", "<!-- /numerics -->")
MIXES, LARGEST_BATCH = 20, 64
METHODS = ("full", "moe-gated", "moe-split")
COMPRESSED, TOKENS_PER_BATCH = "compressed, with exits", 4096
COMBINATIONS = [("torch", "float32"), ("torch", "bfloat16"), ("openvino", "float32"), ("openvino", "bfloat16")]


@dataclass(frozen=True)
class Batch:
    """rows: which texts are answered together. extra: columns of padding beyond the longest text."""

    rows: list[int]
    extra: int = 0


def main() -> None:
    """Measure what has no result yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, help="folder with the data sets; without it the embedded tweets")
    parser.add_argument("--models", type=Path, default=Path("runs/numerics"))
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--compressed", type=Path, help="a folder made by `sentimoe compress`")
    told = parser.parse_args()
    texts = real_texts(told.data_root, told.texts)
    rows = read_json(RESULTS)["rows"] if RESULTS.is_file() else []
    for method in METHODS:
        for backend, precision in COMBINATIONS:
            known = [(row["method"], row["backend"], row["precision"]) for row in rows]
            if (method, backend, precision) in known or (backend == "openvino" and find_spec("openvino") is None):
                continue
            folder = trained(method, told.models)
            classifier = SentimentClassifier.from_pretrained(folder, backend=backend, precision=precision)
            assert isinstance(classifier.engine, Engine)
            began = time.monotonic()
            row = {"method": method, "backend": backend, "precision": precision, **measure(classifier.engine, texts)}
            keep(rows, row | {"seconds": round(time.monotonic() - began)})
    if told.compressed is not None:
        rows[:] = [row for row in rows if row["method"] != COMPRESSED]
        classifier, began = SentimentClassifier.from_pretrained(told.compressed), time.monotonic()
        assert isinstance(classifier.engine, Engine)
        row = {"method": COMPRESSED, "backend": "openvino", "precision": precision_of(told.compressed)}
        row |= measure_exits(classifier.engine, texts)
        keep(rows, row | {"seconds": round(time.monotonic() - began)})
    render(rows)


def keep(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    """Add a row to the record."""
    rows.append(row | {"versions": versions(), "hardware": hardware()})
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    before = read_json(RESULTS) if RESULTS.is_file() else {"mixes": MIXES}
    write_json(RESULTS, before | {"rows": rows})
    print(row, flush=True)


def precision_of(compressed: Path) -> str:
    """In which precision its networks run."""
    about = read_json(compressed / "sentimoe_compressed.json")
    return "int8" if about["lever"]["int8"] else str(about["original"]["precision"])


def real_texts(root: Path | None, count: int) -> list[str]:
    """Short and long ones: tweets, sentences and a twentieth of reviews; without a folder the embedded tweets."""
    if root is None:
        return load_dataset("tweets").splits["test"].sample(count).texts
    sources = {"tweeteval-emotion": count // 2, "imdb": count // 20}
    sources["sst5"] = count - sum(sources.values())
    found = []
    for name, share in sources.items():
        column = pq.read_table(root / name / "test.parquet", columns=["text"])["text"].to_pylist()
        found += random.Random(0).sample(column, share)
    return found


def trained(method: str, models: Path) -> Path:
    """all-MiniLM-L6-v2, one epoch on 2,000 embedded tweets; a split model is made from the dense one."""
    folder = models / method
    if not (folder / "run.json").is_file():
        settings: dict[str, Any] = {"epochs": 1, "train_limit": 2000, "max_length": 64, "method": method}
        if method == "moe-split":
            settings |= {"teacher": str(trained("full", models)), "dropout": 0.0}
            settings |= {"distillation_weight": 0.5, "distillation_token_dropout": 0.0}  # those of the stored result
        train(TrainConfig(**settings), folder, progress=False)
    return folder


def measure(engine: Engine, texts: Sequence[str], mixes: int = MIXES) -> dict[str, Any]:
    """How far the probabilities of a text in every mix are from those of the text alone."""
    encodings = make_windows(texts, engine.tokenizer, engine.max_length, "truncate").encodings
    alone = [answer(engine, encodings, Batch([row])) for row in range(len(encodings))]
    expected = np.concatenate([probabilities for probabilities, _ in alone])
    routes = [routed[0] for _, routed in alone]
    differences, changed, flipped, gaps = [], 0, 0, [0.0]
    for mix in range(mixes):
        for batch in mixed(encodings, routes, mix):
            found, routed = answer(engine, encodings, batch)
            for row, probabilities, route in zip(batch.rows, found, routed, strict=True):
                moved = route is not None and not np.array_equal(route[0], routes[row][0])
                difference = float(np.abs(probabilities - expected[row]).max())
                changed += int(probabilities.argmax() != expected[row].argmax())
                if moved:
                    flipped += 1
                    gaps.append(float(routes[row][1][(route[0] != routes[row][0]).any(axis=-1)].max()))
                else:
                    differences.append(difference)
    ordered = np.sort(differences)
    return {
        "texts": len(encodings),
        "answers": mixes * len(encodings),
        "max_difference": float(ordered[-1]),
        "difference_999": float(ordered[int(0.999 * (len(ordered) - 1))]),
        "changed_labels": changed,
        "texts_with_a_flipped_token": flipped,
        "largest_gap_of_a_flipped_token": None if np.isnan(gaps).any() else max(gaps),
    }


def measure_exits(engine: Engine, texts: Sequence[str], mixes: int = MIXES) -> dict[str, Any]:
    """The same where texts leave early: those that leave after other layers than alone are counted apart."""
    encodings = make_windows(texts, engine.tokenizer, engine.max_length, "truncate").encodings
    ids, staged = [list(each["input_ids"]) for each in encodings], engine.model
    assert isinstance(staged, StagedClassifier)
    alone = [staged.answer([each], TOKENS_PER_BATCH) for each in ids]
    expected = softmax(np.concatenate([each.logits for each in alone]))
    layers = np.concatenate([each.layers for each in alone])
    differences, changed, gaps = [], 0, [0.0]
    for mix in range(mixes):
        for batch in mixed(encodings, [None] * len(ids), mix):
            answers = staged.answer([ids[row] for row in batch.rows], TOKENS_PER_BATCH)
            assert answers.layers is not None
            found, known, left = softmax(answers.logits), expected[batch.rows], layers[batch.rows]
            changed += int((found.argmax(axis=1) != known.argmax(axis=1)).sum())
            moved = answers.layers != left
            differences += np.abs(found - known).max(axis=1)[~moved].tolist()
            for here, there, row in zip(found[moved], known[moved], np.flatnonzero(moved), strict=True):
                earlier = here if answers.layers[row] < left[row] else there
                stage = int(np.searchsorted(staged.layers, min(answers.layers[row], left[row])))
                gaps.append(float(earlier.max() - staged.thresholds[stage]))
    ordered = np.sort(differences)
    return {
        "texts": len(ids),
        "answers": mixes * len(ids),
        "max_difference": float(ordered[-1]),
        "difference_999": float(ordered[int(0.999 * (len(ordered) - 1))]),
        "changed_labels": changed,
        "texts_with_a_flipped_token": len(gaps) - 1,
        "largest_gap_of_a_flipped_token": max(gaps),
    }


def mixed(encodings: Sequence[Any], routes: Sequence[Any], mix: int) -> Iterator[Batch]:
    """Batches of one mix: the first is sorted by length, the second by the expert that reads most of a text."""
    draw = random.Random(mix)
    rows = list(range(len(encodings)))
    draw.shuffle(rows)
    if mix == 0:
        rows.sort(key=lambda row: len(encodings[row]["input_ids"]))
    elif mix == 1 and routes[0] is not None:
        rows.sort(key=lambda row: int(np.bincount(routes[row][0].ravel()).argmax()))
    while rows:
        size = draw.randint(1, LARGEST_BATCH)
        batch, rows = rows[:size], rows[size:]
        yield Batch(batch, draw.choice([0, 0, 7, 64]))


@torch.inference_mode()
def answer(engine: Engine, encodings: Sequence[Any], batch: Batch) -> tuple[np.ndarray, list[Any]]:
    """Probabilities `[B, C]`, and for each text its experts `[N, L, K]` with the gap to the next best `[N, L]`."""
    given = [encodings[row] for row in batch.rows]
    width = min(max(len(each["input_ids"]) for each in given) + batch.extra, engine.max_length)
    padded = engine.tokenizer.pad(
        given, padding="max_length", max_length=width, padding_side="right", return_tensors="pt"
    )
    output = engine.model(**padded)
    probabilities = output.logits.float().softmax(dim=-1).numpy()
    if isinstance(engine.model, OpenVINOClassifier):
        return probabilities, shown(output.experts, padded["attention_mask"].bool())
    if getattr(output, "routing", None) is None:
        return probabilities, [None] * len(given)
    layers = moe_layers(engine.model)
    return probabilities, [choices(layers, output.routing[text]) for text in range(len(given))]


def shown(experts: Sequence[torch.Tensor], mask: torch.Tensor) -> list[Any]:
    """The same from what a network shows, experts `[B * L, K]` a layer; it shows no logits, so every gap is NaN."""
    if not experts:
        return [None] * len(mask)
    whole = torch.stack([layer.view(*mask.shape, -1).sort(dim=-1).values for layer in experts], dim=1).numpy()
    texts = [each[:, seen] for each, seen in zip(whole, mask.numpy(), strict=True)]
    return [(each, np.full(each.shape[:2], np.nan)) for each in texts]


def choices(layers: Sequence[Any], routing: Any) -> tuple[np.ndarray, np.ndarray]:
    """The experts of each token, sorted by number, and by how much the last of them beats the next best."""
    chosen, gaps = [], []
    for layer, logits in zip(layers, routing.router_logits, strict=True):
        count = layer.num_experts_per_tok
        best = logits.float().topk(count + 1, dim=-1)
        chosen.append(best.indices[:, :count].sort(dim=-1).values.numpy())
        gaps.append((best.values[:, count - 1] - best.values[:, count]).numpy())
    return np.stack(chosen), np.stack(gaps)


def render(rows: Sequence[dict[str, Any]]) -> None:
    """Write the table between its marks."""
    lines = [
        "| method | backend | precision | answers | largest Δp | Δp of 99.9% | labels changed | near-ties (gap) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        flips = row["texts_with_a_flipped_token"]
        gap = row["largest_gap_of_a_flipped_token"]
        apart = str(flips) if not flips or gap is None else f"{flips} ({gap:.2g})"
        cells = [row["method"], row["backend"], row["precision"], f"{row['answers']:,}"]
        cells += [f"{row['max_difference']:.2g}", f"{row['difference_999']:.2g}", str(row["changed_labels"]), apart]
        lines.append(f"| {' | '.join(cells)} |")
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(MARKS[0])[0], text.partition(MARKS[1])[2]
    write_text(PAGE, "\n".join([f"{before}{MARKS[0]}", *lines, f"{MARKS[1]}{after}"]))


if __name__ == "__main__":
    main()
