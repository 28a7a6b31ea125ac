"""`make bench`: what two layers of copied experts cost, beside the FLOP ratio that is their floor.

Dense model and mixture of experts run in turn in one process, same texts, precision and threads; the ratio of each pair
is taken, then the median of the ratios. Peak memory is that of a fresh process for each model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModel, MPNetConfig, PreTrainedModel
from transformers.utils import logging

from experiments import IMPORTABLE
from sentimoe.config import MoEConfig
from sentimoe.evaluation import count_flops, interleaved, peak_memory_mib, ratio
from sentimoe.inference import keep_freed_memory
from sentimoe.machine import hardware, versions
from sentimoe.records import write_json
from sentimoe.upcycle import load_classifier, upcycle, with_mean_head

PAIRS = 11
# (texts, tokens): the engine's batch of 8,192 tokens; training steps of 32 tweets and of 32 reviews of 128 tokens
SIZES = {"inference": ((256, 32),), "training": ((32, 32), (32, 128))}
LABELS = ("anger", "joy", "optimism", "sadness")


def minilm() -> PreTrainedModel:
    """all-MiniLM-L6-v2 with its real weights."""
    return load_classifier("all-MiniLM-L6-v2", LABELS)


def mpnet() -> PreTrainedModel:
    """The architecture of all-mpnet-base-v2 with random weights: time and memory do not depend on their values."""
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    return with_mean_head(
        AutoModel.from_config(MPNetConfig(vocab_size=30527, pad_token_id=1), add_pooling_layer=False), names
    )


BACKBONES: dict[str, Callable[[], PreTrainedModel]] = {"all-MiniLM-L6-v2": minilm, "all-mpnet-base-v2": mpnet}


def build(backbone: str, experts_per_token: int) -> PreTrainedModel:
    """The dense model (0), or its last two layers as 4 gated experts of which a token meets 1 or 2."""
    torch.manual_seed(0)
    model = BACKBONES[backbone]()
    if experts_per_token:
        return upcycle(model, MoEConfig(num_experts=4, num_experts_per_tok=experts_per_token, init_noise=0.05))
    return model


def texts(size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Random texts of between half and all of the tokens, padded."""
    count, tokens = size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (count, tokens), generator=generator)
    lengths = torch.randint(tokens // 2 + 1, tokens + 1, (count, 1), generator=generator)
    return {"input_ids": ids, "attention_mask": (torch.arange(tokens) < lengths).long()}


def inference(model: PreTrainedModel, size: tuple[int, int]) -> Callable[[], Any]:
    """One forward with bf16 weights."""
    model, inputs = model.eval().to(torch.bfloat16), texts(size)

    @torch.inference_mode()
    def call():
        return model(**inputs)

    return call


def training_step(model: PreTrainedModel, size: tuple[int, int]) -> Callable[[], Any]:
    """Forward under bf16 autocast, backward, fused AdamW."""
    model.train()
    inputs = texts(size) | {"labels": torch.arange(size[0]) % len(LABELS)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def call():
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return call


MODES: dict[str, Callable[[PreTrainedModel, tuple[int, int]], Callable[[], Any]]] = {
    "inference": inference,
    "training": training_step,
}


def compare(
    backbone: str, experts_per_token: int, mode: str, size: tuple[int, int], pairs: int = PAIRS
) -> dict[str, Any]:
    """Time dense and MoE in turn; the FLOPs of both are counted on the same inputs."""
    models = [build(backbone, k) for k in (0, experts_per_token)]
    dense, moe = calls = [MODES[mode](model, size) for model in models]
    flops = [count_flops(model, call) for model, call in zip(models, calls, strict=True)]
    for call in (dense, moe) * 2:
        call()
    seconds = interleaved({"dense": dense, "moe": moe}, pairs)
    times = ratio(seconds["moe"], seconds["dense"])
    flop_ratio = flops[1] / flops[0]
    return {
        "backbone": backbone,
        "mode": mode,
        "texts": size[0],
        "tokens": size[1],
        "experts_per_token": experts_per_token,
        "pairs": pairs,
        "dense_ms": 1000 * median(seconds["dense"]),
        "moe_ms": 1000 * median(seconds["moe"]),
        "flop_ratio": flop_ratio,
        "time_ratio": times["ratio"],
        "time_ratio_quartiles": times["quartiles"],
        "time_over_flops": times["ratio"] / flop_ratio,
    }


def peak_training_mib(backbone: str, experts_per_token: int) -> float:
    """Largest resident memory of a fresh process that takes three training steps, in MiB."""
    program = IMPORTABLE + f"from experiments.copies import _peak; _peak({backbone!r}, {experts_per_token})"
    return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


def _peak(backbone: str, experts_per_token: int) -> None:
    step = training_step(build(backbone, experts_per_token), SIZES["training"][0])
    for _ in range(3):
        step()
    print(peak_memory_mib())


def measure_speed() -> list[dict[str, Any]]:
    """Every backbone, mode, size and K, printed as a table."""
    rows = []
    print(
        "backbone           mode      texts     K   dense ms   MoE ms   FLOP ratio   time ratio (quartiles)   time/FLOP"
    )
    for backbone, mode in product(BACKBONES, MODES):
        for size, k in product(SIZES[mode], (1, 2)):
            row = compare(backbone, k, mode, size)
            rows.append(row)
            low, high = row["time_ratio_quartiles"]
            print(
                f"{backbone:18} {mode:9} {size[0]:3} x {size[1]:<3} {k:2} {row['dense_ms']:10.1f} {row['moe_ms']:8.1f} "
                f"{row['flop_ratio']:12.3f}   {row['time_ratio']:10.3f} ({low:.3f}-{high:.3f}) {row['time_over_flops']:11.3f}",
                flush=True,
            )
    return rows


def measure_memory() -> list[dict[str, Any]]:
    """Peak of training, each in a fresh process, printed as a table."""
    rows = []
    print("backbone            K   dense MiB   MiB with experts   ratio   (peak of training in a fresh process)")
    for backbone in BACKBONES:
        dense = peak_training_mib(backbone, 0)
        for k in (1, 2):
            moe = peak_training_mib(backbone, k)
            rows.append({"backbone": backbone, "experts_per_token": k, "dense_mib": dense, "moe_mib": moe})
            print(f"{backbone:18} {k:2} {dense:11.0f} {moe:18.0f} {moe / dense:7.2f}", flush=True)
    return rows


KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear"),
    "copies and conversions": ("aten::copy_", "aten::fill_", "aten::cat", "aten::zero_"),
    "optimizer": ("aten::_fused_adamw_",),
    "dropout": ("aten::bernoulli_",),
}


def measure_profile(backbone: str = "all-MiniLM-L6-v2", steps: int = 10) -> list[dict[str, Any]]:
    """Where a training step of 32 x 32 tokens spends its time, dense and with K = 1, in ms of processor time."""
    rows = []
    print("K     " + "   ".join([*KINDS, "everything else"]) + "   (ms a step)")
    for k in (0, 1):
        step = training_step(build(backbone, k), SIZES["training"][0])
        for _ in range(5):
            step()
        with torch.profiler.profile() as profile:
            for _ in range(steps):
                step()
        spent = {event.key: event.self_cpu_time_total / 1000 / steps for event in profile.key_averages()}
        kinds = {kind: sum(spent.get(name, 0.0) for name in names) for kind, names in KINDS.items()}
        kinds["everything else"] = sum(spent.values()) - sum(kinds.values())
        rows.append({"experts_per_token": k, "ms": kinds})
        print(f"{k}  " + "   ".join(f"{value:8.1f}" for value in kinds.values()))
    return rows


MEASURES = {"speed": measure_speed, "memory": measure_memory, "profile": measure_profile}


def main(path: Path, parts: list[str]) -> None:
    """Measure the parts named ("speed", "memory", "profile"; none: all) and put them into the JSON."""
    keep_freed_memory()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for part in parts or list(MEASURES):
        record[part] = MEASURES[part]()
    record |= {"hardware": hardware(), "versions": versions()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
