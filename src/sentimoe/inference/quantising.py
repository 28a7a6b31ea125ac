"""Weights and activations in 8 bits after training, calibrated on some texts (NNCF)."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..errors import ConfigError

TEXTS, BATCH = 512, 64


def calibration_batches(ids: Sequence[list[int]], padding: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of 512 tokenised texts, drawn at random: ids and masks `[64, L]`, texts of similar length together."""
    chosen = np.random.default_rng(seed).permutation(len(ids))[:TEXTS]
    ordered = sorted(chosen.tolist(), key=lambda index: len(ids[index]))
    batches = []
    for start in range(0, len(ordered), BATCH):
        rows = [ids[index] for index in ordered[start : start + BATCH]]
        width = max(map(len, rows))
        tokens = np.full((len(rows), width), padding, dtype=np.int64)
        for row, text in enumerate(rows):
            tokens[row, : len(text)] = text
        batches.append((tokens, (np.arange(width) < np.array([[len(text)] for text in rows])).astype(np.int64)))
    return batches


def quantised(network: Any, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> Any:
    """The OpenVINO network in 8 bits. batches: what it is given, in the order of its inputs.

    Raises ConfigError without NNCF.
    """
    if find_spec("nncf") is None:
        raise ConfigError("int8 needs NNCF: pip install 'sentimoe[compress]', or leave int8 out")
    import nncf

    names = [each.get_any_name() for each in network.inputs]
    given = [dict(zip(names, batch, strict=True)) for batch in batches]
    how = {"model_type": nncf.ModelType.TRANSFORMER, "subset_size": len(given)}
    log = logging.getLogger("nncf")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):  # progress bars, which have no switch
            return nncf.quantize(network, nncf.Dataset(given), **how)
    finally:
        log.setLevel(level)
