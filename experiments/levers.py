"""Every way to make a classifier faster, alone and with the others: exits, 8 bits, and split experts; or other exits.

The experts divide the FFNs of the dense model; they learned its answers on the texts that teach heads, too. Heads are
taught and thresholds are set as `compress` does. Speed and the share of other labels are measured on the texts that
choose, at three tolerances, so that ways are compared where they change equally many labels. Each case and seed leaves
a JSON in `results/compression/levers/`, which docs/performance.md shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification

from sentimoe import SentimentClassifier
from sentimoe.compression import Lever, Search, default_levers, divided
from sentimoe.compression.thresholds import leaves_after
from sentimoe.data import load_dataset
from sentimoe.machine import hardware, versions
from sentimoe.model_folder import load_model
from sentimoe.records import read_json, write_json
from sentimoe.training import TrainConfig, train

from .compression import CASES, Case, texts_of
from .students import write_texts

TOLERANCES, ROUNDS, EPOCHS = (0.02, 0.05, 0.1), 5, 2
NONE = Lever((), False)  # the model as it is


def measure(
    name: str,
    seed: int,
    *,
    data_root: Path,
    work: Path,
    results: Path,
    progress: Callable[[str], None],
    exits: Sequence[tuple[int, ...]] = (),
) -> None:
    """Divide the dense model among experts, distil it, and measure each way; a record that is there stays.

    exits: sets of exits that the dense model is measured with instead, in 8 bits; they have a record of their own.
    """
    sets = "".join(f"__{'-'.join(map(str, cuts))}" for cuts in exits)
    path = results / "levers" / f"{name}__s{seed}{sets}.json"
    if path.exists():
        return
    case, dense = CASES[name], work / f"{name}-s{seed}"
    source = data_root / case.data
    dataset = load_dataset(str(source) if source.is_dir() else case.data)
    texts, _ = texts_of(case, dataset.splits["train"], dataset.label_names, source, seed)
    classifier = SentimentClassifier.from_pretrained(dense, precision="float32")
    tokenizer = classifier.tokenizer
    assert tokenizer is not None
    assert classifier.seen_texts is not None
    parts = divided(texts, classifier.seen_texts.mask(texts), max(TOLERANCES), seed)
    record = {"case": case._asdict(), "seed": seed, "taught_on": len(parts.learn), "choose": len(parts.choose)}
    levers = [NONE, *reversed(default_levers(classifier.model.config.get_text_config().num_hidden_layers))]
    models = [(classifier.model, False)]
    if exits:
        levers = [Lever(cuts, True) for cuts in exits]
    else:
        run = divided_run(dense, write_texts(dense, parts.learn, dataset, progress, "learn"), case, seed, progress)
        record["split"] = read_json(run / "run.json")["config"]["method_settings"] | {"epochs": EPOCHS}
        models.append((load_model(AutoModelForSequenceClassification, run)[0], True))
    search = Search(classifier.model, tokenizer, parts, seed=seed, progress=progress)
    rows = record["rows"] = []
    for model, is_split in models:
        for lever in levers:
            rows += _rows(search, model, lever, is_split)
            progress(f"{'split experts, ' * is_split}{lever}: {rows[-1]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record | {"versions": versions(), "hardware": hardware()})


def records(results: Path) -> list[dict[str, Any]]:
    """What `measure` has left, by case and seed."""
    return [read_json(path) for path in sorted((results / "levers").glob("*.json"))]


def divided_run(dense: Path, data: Path, case: Case, seed: int, progress: Callable[[str], None]) -> Path:
    """The run folder of the dense model divided among experts, taught by itself."""
    run = dense.with_name(f"{dense.name}-split-of-learn")
    if not (run / "run.json").is_file():
        progress("dividing the dense model among experts")
        told = {"data": str(data), "eval_limit": 500, "max_length": case.max_length, "epochs": EPOCHS, "seed": seed}
        taught = {"teacher": [str(dense)], "distillation_weight": 1.0, "head": "native"}
        train(TrainConfig.from_dict(told | taught | {"model": str(dense), "method": "moe-split"}), run, resume=True)
    return run


def _rows(search: Search, model: Any, lever: Lever, is_split: bool) -> list[dict[str, Any]]:
    """A row for each tolerance: the fastest setting within it, or the safest where none is."""
    variant = search.built(lever, model)
    (steps, rates), confidence = search.steps(variant), variant.answers(search.choose).max(axis=2)
    found = []
    for tolerance in TOLERANCES:
        place = max((index for index, rate in enumerate(rates) if rate <= tolerance), default=0)
        found.append(
            {
                "split": is_split,
                "lever": asdict(lever),
                "tolerance": tolerance,
                "within": rates[place] <= tolerance,
                "differ": rates[place],
                "mean_layers": float(variant.classifier.layers[leaves_after(confidence, steps[place])].mean()),
                "speed": search.timed(variant, steps[place], ROUNDS),
            }
        )
    return found
