"""8-bit peers: what a user makes in a minute from a trained dense model, without training."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..inference import Engine, make_windows
from ..inference.conversion import convert
from ..inference.openvino import import_openvino
from ..inference.quantising import calibration_batches, quantised
from .peers import Task

Batches = list[tuple[np.ndarray, np.ndarray]]


def calibration_of(task: Task, engine: Engine) -> Batches:
    """Batches of the texts that the dense model was trained on."""
    some = task.train.sample(512).texts
    ids = [each["input_ids"] for each in make_windows(some, engine.tokenizer, engine.max_length).encodings]
    return calibration_batches(ids, engine.tokenizer.pad_token_id, 0)


def openvino_int8_model(model: PreTrainedModel, max_length: int, batches: Batches) -> Any:
    """The OpenVINO network of a dense model in 8 bits."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.xml"
        convert(model, max_length, file, [torch.float32])
        core = import_openvino().Core()
        core.set_property({"ENABLE_MMAP": False})  # the file is about to go
        return quantised(core.read_model(file), batches)


def network_megabytes(network: Any) -> float:
    """Of its weights, written to disk."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.xml"
        import_openvino().save_model(network, file, compress_to_fp16=False)
        return file.with_suffix(".bin").stat().st_size / 1e6
