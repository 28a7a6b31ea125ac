"""ONNX Runtime as a peer of the engine: a classifier exported by torch, experts sparse, float32."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PreTrainedModel

from ..inference import ExportWrapper, padded_probe
from ..upcycle import moe_layers

NAMES = ("input_ids", "attention_mask")


class OnnxClassifier:
    """Called like the model it was made from: `input_ids` and `attention_mask` `[B, L]` -> `.logits` `[B, C]`.

    ONNX Runtime has no bfloat16 kernels for processors, so it computes in float32. Raises ImportError without
    `onnxruntime` and `onnxscript`.
    """

    def __init__(self, model: PreTrainedModel):
        import onnxruntime

        exported = copy.deepcopy(model).float().cpu().eval()
        for layer in moe_layers(exported):
            layer.base_experts.backend = "gathered"
        sizes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
        given = padded_probe(exported)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            torch.onnx.export(
                ExportWrapper(exported).eval(),
                tuple(given[name] for name in NAMES),
                path,
                dynamo=True,
                verbose=False,
                input_names=NAMES,
                output_names=["logits"],
                dynamic_shapes=(sizes, sizes),
            )
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.config, self.device = exported.config, torch.device("cpu")

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: torch.Tensor) -> Any:
        given = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        return SimpleNamespace(logits=torch.from_numpy(self._session.run(None, given)[0]))
