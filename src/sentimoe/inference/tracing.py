"""Trace a torch module into an OpenVINO network, and leave logging as it was."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..errors import ConversionError
from ..model_folder import quietly, without_deprecations
from .openvino import import_openvino


def openvino_network(module: nn.Module, name: str, example: dict[str, torch.Tensor], shapes: list[list[int]]) -> Any:
    """The network of a module. It has to be compared with it: the tracer fixes sizes where it should not.

    name: of the model, for the message. example: what the module is called with. shapes: of these inputs, -1 where a
    size is free. Raises ConversionError where OpenVINO cannot convert it.
    """
    openvino = import_openvino()
    kinds = {torch.int64: openvino.Type.i64, torch.float32: openvino.Type.f32}
    inputs = [(key, shape, kinds[given.dtype]) for (key, given), shape in zip(example.items(), shapes, strict=True)]
    # the tracer reads every property, renamed ones too
    with torch.no_grad(), quietly(), without_deprecations(), _same_root_logger():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # it warns of every size that it fixes
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.jit")
        try:
            return openvino.convert_model(module, example_input=example, input=inputs)
        except (RuntimeError, openvino.frontend.OpConversionFailure) as error:
            raise ConversionError(
                f"OpenVINO cannot convert this {name} ({str(error).strip().splitlines()[0]}); use the torch backend "
                "for it, or merge its adapter first if it has one"
            ) from error


@contextmanager
def _same_root_logger() -> Iterator[None]:
    """A conversion that fails leaves the root logger at ERROR, and no warning of any package is seen any more."""
    root = logging.getLogger()
    level, filters, handlers = root.level, list(root.filters), list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers
