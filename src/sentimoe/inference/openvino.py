"""The second backend: a classifier compiled by OpenVINO."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ..errors import ConfigError

HINTS = {torch.bfloat16: "bf16", torch.float32: "f32"}
KEPT_SIZES = 128  # compiled products of one kind; OpenVINO's 5,000 are memory for every size ever seen
WIDTH_STEP, FEW_TOKENS = 16, 512  # a batch of so few tokens is read faster than compiled for


class OpenVINOClassifier:
    """Called like the model it was made from: `input_ids` and `attention_mask` `[B, L]` -> `.logits` `[B, C]`.

    `.experts`: what each MoE layer chose for every position, padding too, `[B * L, K]`.

    config: `num_labels`, `id2label`, `label_type` and `ordinal`, as of a model. device: the processor. max_length: up
    to how many tokens it was compared with the model; None: an export of an early version does not say. Threads may
    share one.
    """

    def __init__(self, network: Any, dtype: torch.dtype):
        labels = json.loads(network.get_rt_info(["sentimoe", "labels"]).value)
        names = [name for name in ("label_type", "ordinal") if network.has_rt_info(["sentimoe", name])]
        about = {name: network.get_rt_info(["sentimoe", name]).value for name in names}  # early versions say less
        self.config = SimpleNamespace(
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            **about | ({"ordinal": about["ordinal"] == "True"} if "ordinal" in about else {}),
        )
        self.device = torch.device("cpu")
        length = ["sentimoe", "max_length"]
        self.max_length = int(network.get_rt_info(length).value) if network.has_rt_info(length) else None
        self._run = runner(network, dtype)

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: torch.Tensor) -> SimpleNamespace:
        answer = self._run({"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()})
        logits, *experts = map(torch.from_numpy, answer)
        return SimpleNamespace(logits=logits, experts=experts)


def runner(network: Any, dtype: torch.dtype) -> Callable[[dict[str, np.ndarray]], list[np.ndarray]]:
    """A function that runs a network on the processor: inputs by name -> outputs. Threads may share it."""
    settings = {"INFERENCE_PRECISION_HINT": HINTS[dtype], "PERFORMANCE_HINT": "LATENCY"}
    settings |= {"INFERENCE_NUM_THREADS": str(torch.get_num_threads()), "CPU_RUNTIME_CACHE_CAPACITY": str(KEPT_SIZES)}
    compiled = import_openvino().Core().compile_model(network, "CPU", settings)

    def run(given: dict[str, np.ndarray]) -> list[np.ndarray]:
        # a request of its own for each call: calling what was compiled shares one among all threads
        answer = compiled.create_infer_request().infer(given)
        return [answer[place] for place in range(len(answer))]

    return run


def padded_width(longest: int, rows: int, most: int) -> int:
    """How many tokens wide a batch is made: small ones as the next multiple of 16, so that few sizes occur.

    OpenVINO compiles for every new size. longest, most: tokens of the longest text, and that the model reads.
    """
    width = max(longest, min(-(-longest // WIDTH_STEP) * WIDTH_STEP, most))
    return width if rows * width <= FEW_TOKENS else longest


def import_openvino() -> Any:
    """The package. Raises ConfigError, which says how to install it, where it is missing."""
    if find_spec("openvino") is None:
        raise ConfigError("backend 'openvino' is not installed: pip install 'sentimoe[openvino]'")
    import openvino

    return openvino
