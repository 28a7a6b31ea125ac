"""Segments as OpenVINO networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ConversionError
from ..model_folder import without_deprecations
from .conversion import padded_probe
from .openvino import import_openvino, runner
from .segments import Segment
from .tracing import openvino_network

TOLERANCE = 1e-3  # of states and logits in float32, relative to the largest


def traced(segment: Segment, hidden_size: int) -> Any:
    """An OpenVINO network with dynamic batch and length. Raises ConversionError where its answers differ."""
    probe, other = (_probe(segment, hidden_size, lengths) for lengths in ((), (3, 2, 1)))
    shape = [-1, -1] if segment.begins else [-1, -1, hidden_size]
    network = openvino_network(segment, f"part of a {type(segment.model).__name__}", probe, [shape, [-1, -1]])
    with torch.no_grad(), without_deprecations():
        run = network_of(network, torch.float32)
        for given in (probe, other):
            expected = segment(**given)
            found = [each for each in run(*(each.numpy() for each in given.values())) if each is not None]
            for one, true in zip(found, expected, strict=True):
                mask = given["attention_mask"].bool() if true.dim() == 3 else slice(None)
                difference = (torch.from_numpy(one)[mask] - true[mask]).abs().max()
                if not difference <= TOLERANCE * true.abs().max().clamp_min(1):
                    raise ConversionError(
                        f"a network made of some layers of this model answers differently (by {difference:.2g}); "
                        "this model cannot be cut"
                    )
    return network


def network_of(network: Any, dtype: torch.dtype) -> Any:
    """A function that runs it: tokens and mask -> hidden states, and logits or None."""
    outputs = runner(network, dtype)

    def run(tokens: np.ndarray, attention_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        hidden, *logits = outputs({"tokens": tokens, "attention_mask": attention_mask})
        return hidden, logits[0] if logits else None

    return run


def save_network(network: Any, file: Path) -> None:
    """Write `file` (it ends in `.xml`) and its weights beside it."""
    import_openvino().save_model(network, file, compress_to_fp16=False)


def _probe(segment: Segment, hidden_size: int, lengths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    probe = padded_probe(segment.model, *lengths)
    tokens, mask = probe["input_ids"], probe["attention_mask"]
    if not segment.begins:
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randn((*mask.shape, hidden_size), generator=generator)
    return {"tokens": tokens, "attention_mask": mask}
