"""Batches under a token budget."""

from collections.abc import Iterator, Sequence

import numpy as np


def token_batches(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Indices of texts of similar length together, longest first, at most ``tokens_per_batch`` padded tokens each.

    A text longer than that has a batch of its own.
    """
    batch: list[int] = []
    for index in np.argsort(-np.asarray(lengths, dtype=int), kind="stable").tolist():
        if batch and (len(batch) + 1) * lengths[batch[0]] > tokens_per_batch:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
