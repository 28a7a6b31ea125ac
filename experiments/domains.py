"""Do experts pay where one model must know sixteen domains? fdu-mtl (Liu, Qiu and Huang 2017).

`experiments/studies/domains.yaml` declares the rows that are plain runs: one model of all domains, dense or with
experts; one of each domain; one of twelve domains, and one of eight. Here are the data sets of these, and the row whose
experts are chosen for a whole text.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sentimoe.bench.flops import gflops_per_text
from sentimoe.evaluation import active_parameters, classification_metrics, predicted_labels
from sentimoe.inference import Engine
from sentimoe.machine import hardware, versions
from sentimoe.moe import Router
from sentimoe.moe.routing import active_call
from sentimoe.records import write_json
from sentimoe.training import dataset_of, fit, prepare
from sentimoe.upcycle import moe_layers

from .perform import KEYS, Run, told, write_run
from .ready_data import SPLITS

DATA = "fdu-mtl"
LEFT_OUT = ("camera", "imdb", "music", "video")  # of twelve domains
ADDED = ("mr", "software", "sports", "toys")  # to eight, one by one, which makes the twelve


def write_domains(data_root: Path, folder: Path, results: Path) -> None:
    """Write all domains, each domain, twelve and eight of them, as data sets; the last two have all test texts.

    results: gets the domain of each test text, by which its page tells texts of left-out domains.
    """
    test = pd.read_parquet(data_root / DATA / "test.parquet")
    (results / "domains").mkdir(parents=True, exist_ok=True)
    write_json(results / "domains" / "test-domains.json", test["domain"].tolist())
    for split in SPLITS:
        frame = pd.read_parquet(data_root / DATA / f"{split}.parquet")
        _write(frame, folder / DATA / f"{split}.parquet")
        for domain, part in frame.groupby("domain"):
            _write(part, folder / f"{DATA}-{domain}" / f"{split}.parquet")
        for name, without in ((f"{DATA}-of-twelve", LEFT_OUT), (f"{DATA}-of-eight", LEFT_OUT + ADDED)):
            part = frame if split == "test" else frame[~frame["domain"].isin(without)]
            _write(part, folder / name / f"{split}.parquet")


def _write(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        frame[["text", "label", "domain"]].to_parquet(path, index=False)


class TextRouter(Router):
    """Scores every expert for a whole text: reads the mean of its real tokens."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens `[T, D]` -> logits `[T, E]`, float32, alike for the tokens of a text."""
        call = active_call()
        assert call is not None
        owner = call.mask.nonzero()[:, 0]  # of each real token; the first one may be repeated behind them
        sums = tokens.new_zeros(len(call.mask), tokens.shape[1], dtype=torch.float32)
        sums = sums.index_add(0, owner, tokens[: len(owner)].float())
        counts = torch.bincount(owner, minlength=len(call.mask)).clamp_min(1).unsqueeze(1)
        return super().forward(sums / counts)[torch.cat([owner, owner[:1].expand(len(tokens) - len(owner))])]


def route_texts(model: Any) -> None:
    """Have the routers of a model read whole texts, in place."""
    for layer in moe_layers(model):
        num_experts, hidden_size = layer.router.weight.shape
        router = TextRouter(num_experts, hidden_size, bias=layer.router.bias is not None)
        router.load_state_dict(layer.router.state_dict())
        layer.router = router.to(layer.router.weight.device)


def per_text(seed: int, data: Path, results: Path, progress: Callable[[str], None]) -> None:
    """Train gated experts that are chosen for a whole text, with the settings of `moe-gated`."""
    settings: dict[str, Any] = {"max_length": 128, "epochs": 3, "method_settings": {"init_noise": 0.05}}
    run = Run(DATA, "all-MiniLM-L6-v2", "moe-gated", seed, "chosen-per-text", settings, long_texts="truncate")
    stem, started = results / "runs" / run.name, time.monotonic()
    if Path(f"{stem}.json").exists():
        return
    config = run.config(data)
    dataset = dataset_of(config)
    ready = prepare(config, dataset)
    route_texts(ready.model)
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(ready, Path(folder))
    engine = Engine(ready.model, ready.tokenizer, long_texts="truncate")
    found = {name: engine.predict_proba(dataset.splits[name].texts) for name in ("validation", "test")}
    labels = {name: np.asarray(dataset.splits[name].labels) for name in found}
    scores = {name: classification_metrics(labels[name], found[name], dataset.label_names) for name in found}
    record = {
        "data": DATA, "model": run.model, "method": run.method, "seed": seed, "recipe": run.recipe,
        "hyperparameters": told(run, ready.config), "data_sha256": dataset.sha256,
        "versions": versions(), "hardware": hardware(),
        "validation": {key: scores["validation"][key] for key in KEYS},
        "test": {key: scores["test"][key] for key in (*KEYS, "ece", "confusion_matrix")},
        "label_names": list(dataset.label_names),
        "cost": {
            "trainable_parameters": sum(each.numel() for each in ready.model.parameters() if each.requires_grad),
            "parameters": sum(each.numel() for each in ready.model.parameters()),
            "active_parameters": active_parameters(ready.model),
            "gflops_per_text": round(gflops_per_text(engine, dataset.splits["test"].texts), 4),
            "training_seconds": round(fitted.seconds, 1),
        },
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    write_run(stem, record, labels["test"], predicted_labels(found["test"]))
    progress(f"{run.name}: test {scores['test']['f1_weighted']:.4f}")
