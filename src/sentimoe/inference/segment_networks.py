"""Segments as OpenVINO networks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ConversionError
from ..model_folder import without_deprecations
from .conversion import padded_probe, probe_lengths
from .openvino import import_openvino, runner
from .segments import Segment
from .tracing import openvino_network

TOLERANCE = 1e-3  # of states and logits in float32, relative to the largest


def traced(segment: Segment, hidden_size: int, max_length: int) -> Any:
    """An OpenVINO network with dynamic batch and length. Raises ConversionError where its answers differ.

    max_length: tokens that the model reads at most.
    """
    shape = [-1, -1] if segment.begins else [-1, -1, hidden_size]
    name = f"part of a {type(segment.model).__name__}"
    network = openvino_network(segment, name, _probe(segment, hidden_size, ()), [shape, [-1, -1]])
    if not segment.begins:
        _without_embeddings(network, hidden_size)
    network = reread(network)
    with torch.no_grad(), without_deprecations():
        run = network_of(network, torch.float32)
        for lengths in probe_lengths(segment.model, max_length):
            given = _probe(segment, hidden_size, lengths)
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


def reread(network: Any) -> Any:
    """The network as it will be loaded: OpenVINO recognises more in a file, such as angles that stay in float32."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "segment.xml"
        save_network(network, file)
        core = import_openvino().Core()
        core.set_property({"ENABLE_MMAP": False})  # the file is about to go
        return core.read_model(file)


def _without_embeddings(network: Any, hidden_size: int) -> None:
    """Ask the given states for their shape, not the embeddings of ids: nothing else in a later segment reads those."""
    states = next(each for each in network.get_parameters() if each.get_friendly_name() == "tokens").output(0)
    for operation in network.get_ordered_ops():
        if operation.get_type_name() == "ShapeOf":
            shape = operation.input_value(0).get_partial_shape()
            if shape.rank == states.get_partial_shape().rank and shape[2] == hidden_size:
                operation.input(0).replace_source_output(states)


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
