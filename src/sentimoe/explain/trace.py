"""The routing trace: for every real token its experts, their weights and the layer, recorded once.

Shapes: T real tokens of all texts, N MoE layers, E experts, K experts per token, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..data import text_chunks, token_batches
from ..errors import ConfigError
from ..inference import Engine, check_offsets, make_windows
from ..predictions import check_finite
from ..records import written_aside
from ..upcycle import layer_numbers, moe_layers

TEXTS_PER_CHUNK = 1024


@dataclass(frozen=True)
class Trace:
    """The routing of some texts, token by token in text order; special tokens are real ones and are in it.

    texts: B strings, first: the row of the first of them. text `[T]`: the row of each token's text. token_id `[T]`.
    start, end `[T]`: the token's characters in its text (both 0 for a special token). experts `[T, N, K]` int16, the
    best one first; weights `[T, N, K]` float32, what each counts, as the layer used them; probabilities `[B, C]`: the
    model's answer, NaN for a blank text. layers: the numbers of the N layers, see `layer_numbers`. truncated: how many
    of the texts were cut.
    """

    texts: list[str]
    first: int
    text: np.ndarray
    token_id: np.ndarray
    start: np.ndarray
    end: np.ndarray
    experts: np.ndarray
    weights: np.ndarray
    probabilities: np.ndarray
    layers: list[int]
    truncated: int = 0

    def mass(self, num_experts: int) -> np.ndarray:
        """How much of each token every expert read, `[T, N, E]`; rows sum to 1."""
        mass = np.zeros((*self.experts.shape[:2], num_experts), dtype=np.float32)
        np.put_along_axis(mass, self.experts.astype(int), self.weights, axis=2)
        return mass / mass.sum(axis=2, keepdims=True)


def trace(engine: Engine, texts: Iterable[Any]) -> Iterator[Trace]:
    """Traces of 1,024 texts at a time, in input order; long texts are cut at `engine.max_length`.

    Nothing of a text outlives its group. What torch and the allocator keep of ever new batch sizes, a program bounds
    with `keep_few_kernels`, `return_freed_memory` and few tokens a batch.

    Raises ConfigError when the model has no experts, or the tokenizer cannot say where a token came from, and
    PredictionError for an answer that is not finite.
    """
    layers = moe_layers(engine.model)
    if not layers:
        raise ConfigError("the model has no experts, so there is no routing to trace; train one with moe-gated")
    check_offsets(engine.tokenizer)
    first = 0
    for chunk in text_chunks(texts, TEXTS_PER_CHUNK):
        yield _traced(engine, chunk, first, layers[0].num_experts_per_tok)
        first += len(chunk)


def write_trace(traces: Iterable[Trace], path: Path) -> Iterator[Trace]:
    """Write traces, one or more, to a Parquet file as they pass: a row for every token and layer.

    The file appears when the last one has passed.
    """
    writer = None
    with written_aside(path) as partial:
        try:
            for part in traces:
                table = _table(part)
                writer = writer or pq.ParquetWriter(partial, table.schema, compression="zstd")
                writer.write_table(table)
                yield part
        finally:
            if writer is not None:
                writer.close()


def _table(part: Trace) -> pa.Table:
    count, layers, k = part.experts.shape

    def per_layer(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, layers)

    def chosen(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), kind), k)

    return pa.table(
        {
            "text": pa.array(per_layer(part.text), pa.int32()),
            "token_id": pa.array(per_layer(part.token_id), pa.int32()),
            "start": pa.array(per_layer(part.start), pa.int32()),
            "end": pa.array(per_layer(part.end), pa.int32()),
            "layer": pa.array(np.tile(part.layers, count), pa.int8()),
            "experts": chosen(part.experts, pa.int16()),
            "weights": chosen(part.weights, pa.float32()),
        }
    )


def _traced(engine: Engine, texts: list[str], first: int, k: int) -> Trace:
    windows = make_windows(texts, engine.tokenizer, engine.max_length, "truncate", offsets=True)
    owner, encodings = windows.owner, windows.encodings
    offsets = [each.pop("offset_mapping") for each in encodings]
    probabilities = np.full((len(texts), engine.num_labels), np.nan, dtype=np.float32)
    lengths = [len(each["input_ids"]) for each in encodings]
    parts: list[Any] = [None] * len(owner)
    for batch in token_batches(lengths, engine.tokens_per_batch):
        answers, experts, weights = _routed(engine, [encodings[row] for row in batch])
        rows = [owner[row] for row in batch]
        check_finite(answers, [first + row for row in rows])
        probabilities[rows] = answers
        ends = np.cumsum([lengths[row] for row in batch])[:-1]
        for row, *routed in zip(batch, np.split(experts, ends), np.split(weights, ends), strict=True):
            parts[row] = routed
    spans = np.array([span for spans in offsets for span in spans], dtype=np.int32).reshape(-1, 2)
    num_layers = len(moe_layers(engine.model))
    none = [np.empty((0, num_layers, k))]
    return Trace(
        texts,
        first,
        text=np.repeat(np.array(owner, dtype=np.int32) + first, lengths),
        token_id=np.array([token for each in encodings for token in each["input_ids"]], dtype=np.int32),
        start=spans[:, 0],
        end=spans[:, 1],
        experts=np.concatenate([part[0] for part in parts] or none).astype(np.int16),
        weights=np.concatenate([part[1] for part in parts] or none).astype(np.float32),
        probabilities=probabilities,
        layers=layer_numbers(engine.model),
        truncated=len(windows.truncated),
    )


@torch.inference_mode()
def _routed(engine: Engine, encodings: Sequence[dict[str, list[int]]]) -> tuple[np.ndarray, ...]:
    """Probabilities `[B, C]`, experts and weights `[T, N, K]` of a batch."""
    output = engine.model(**engine.batch(encodings))
    chosen = [
        layer.choose(logits) for layer, logits in zip(moe_layers(engine.model), output.router_logits, strict=True)
    ]
    experts = torch.stack([each for _, each in chosen], dim=1)
    weights = torch.stack(
        [torch.ones_like(each, dtype=torch.float32) if weight is None else weight for weight, each in chosen], dim=1
    )
    return tuple(each.float().cpu().numpy() for each in (output.logits.float().softmax(dim=-1), experts, weights))
