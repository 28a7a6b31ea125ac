"""ONNX Runtime as a peer of the engine: a classifier exported by torch, experts sparse, float32 or int8."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..inference import ExportWrapper, exportable, padded_probe

NAMES = ("input_ids", "attention_mask")


class OnnxClassifier:
    """Called like the model it was made from: `input_ids` and `attention_mask` `[B, L]` -> `.logits` `[B, C]`.

    ONNX Runtime has no bfloat16 kernels for processors, so it computes in float32, or in 8 bits where `calibration`
    has batches of ids and masks `[B, L]`: static quantisation of weights and activations. `megabytes`: of the model on
    disk. Raises ImportError without `onnxruntime` and `onnxscript`.
    """

    def __init__(self, model: PreTrainedModel, calibration: Sequence[tuple[np.ndarray, np.ndarray]] | None = None):
        import onnxruntime

        exported = exportable(model)
        sizes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
        given = padded_probe(exported)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            torch.onnx.export(
                ExportWrapper(exported).eval(),
                tuple(given[name] for name in NAMES),
                path,
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=NAMES,
                output_names=["logits"],
                dynamic_shapes=(sizes, sizes),
            )
            if calibration is not None:
                path = _quantised(path, calibration)
            self.megabytes = sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*")) / 1e6
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.config, self.device = exported.config, torch.device("cpu")

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: torch.Tensor) -> Any:
        given = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        return SimpleNamespace(logits=torch.from_numpy(self._session.run(None, given)[0]))


def _quantised(path: Path, calibration: Sequence[tuple[np.ndarray, np.ndarray]]) -> Path:
    """The model in 8 bits, beside `path`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[tuple[np.ndarray, np.ndarray]] = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else dict(zip(NAMES, batch, strict=True))

    inferred, small = path.with_name("inferred.onnx"), path.with_name("int8.onnx")
    quant_pre_process(path, inferred, skip_symbolic_shape=True)
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_static(inferred, small, Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=["MatMul"], **kinds)
    return small
