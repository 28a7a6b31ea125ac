"""Would a loss that knows the order of the classes help on SST-5? Four losses, the same texts, measured on validation.

`python -m experiments.ordinal_loss DATA_ROOT`: each cell leaves its result in results/trials/ordinal-loss/ and is not
done twice. Small and large errors cost the same in cross entropy; the three others add what a far answer costs.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch.nn import functional as F

from sentimoe.data import load_dataset
from sentimoe.data.dataset import content_hash
from sentimoe.evaluation import classification_metrics, ordinal_metrics, predicted_labels
from sentimoe.inference import Engine
from sentimoe.machine import hardware, versions
from sentimoe.records import write_json
from sentimoe.training import TrainConfig, finished, fit, prepare
from sentimoe.training.objective import Answers, Objective, Sums

RESULTS = Path("results/trials/ordinal-loss")
TEXTS, EPOCHS, TOKENS, SEEDS = 3_000, 3, 64, (0, 1, 2)
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # logits [B, C], labels [B] -> a number


def distances(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`[B, C]`: how far each class is from the true one."""
    classes = torch.arange(logits.shape[-1], device=labels.device)
    return (classes - labels[:, None]).abs().float()


def expected_distance(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy and the distance that the probabilities expect."""
    return F.cross_entropy(logits, labels) + (logits.softmax(-1) * distances(logits, labels)).sum(-1).mean()


def earth_mover(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy and the squared distance of the cumulated probabilities (Hou et al. 2016)."""
    classes = torch.arange(logits.shape[-1], device=labels.device)
    below = (classes >= labels[:, None]).float()
    return F.cross_entropy(logits, labels) + (logits.softmax(-1).cumsum(-1) - below).square().sum(-1).mean()


def soft_labels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy with labels that fall off with the distance, `softmax(-2 d)` (Diaz and Marathe 2019)."""
    return F.cross_entropy(logits, (-2 * distances(logits, labels)).softmax(-1))


LOSSES: dict[str, Loss] = {
    "cross-entropy": F.cross_entropy,
    "expected-distance": expected_distance,
    "earth-mover": earth_mover,
    "soft-labels": soft_labels,
}


def run(name: str, seed: int, data_root: Path) -> None:
    """Train with one loss and measure it on the validation texts."""
    path = RESULTS / f"{name}__s{seed}.json"
    if path.exists():
        return
    dataset = load_dataset(str(data_root / "sst5"))
    config = TrainConfig(
        model="all-MiniLM-L6-v2", data=str(data_root / "sst5"), method="full", epochs=EPOCHS, max_length=TOKENS,
        patience=0, seed=seed, train_limit=TEXTS, ordinal=dataset.label_names,
    )  # fmt: skip
    ready = prepare(config, dataset)

    def loss(self: Objective, answers: Answers, own: Sums, whole: Sums) -> torch.Tensor:
        return LOSSES[name](answers.outputs.logits.float(), answers.inputs["labels"])

    with tempfile.TemporaryDirectory() as folder, patch.object(Objective, "loss", loss):
        fitted = fit(ready, Path(folder))
    engine = Engine(finished(ready), ready.tokenizer, max_length=TOKENS, long_texts="truncate")
    part = dataset.splits["validation"]
    probabilities = engine.predict_proba(part.texts)
    scores = classification_metrics(np.asarray(part.labels), probabilities, dataset.label_names)
    ordinal = ordinal_metrics(part.labels, predicted_labels(probabilities), len(dataset.label_names))
    record = {
        "loss": name, "seed": seed, "texts": len(ready.train), "epochs": EPOCHS, "tokens": TOKENS,
        "learning_rate": ready.config.learning_rate,
        "validation": {key: scores[key] for key in ("n", "accuracy", "f1_weighted", "f1_macro", "ece")} | ordinal,
        "seconds": round(fitted.seconds, 1), "train_sha256": content_hash({"train": ready.train}),
        "data_sha256": dataset.sha256, "versions": versions(), "hardware": hardware(),
    }  # fmt: skip
    write_json(path, record)
    print(f"{path.stem}: {record['validation']}", flush=True)


if __name__ == "__main__":
    RESULTS.mkdir(parents=True, exist_ok=True)
    for each in SEEDS:
        for loss in LOSSES:
            run(loss, each, Path(sys.argv[1]))
