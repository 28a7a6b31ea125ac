"""Which texts are read when: by length, in batches, and in parts of a batch when several processes read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import BatchSampler, DataLoader, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from . import processes
from .tokens import ROW

STAND_IN = 0  # in the column ROW, whose texts are numbered from 1: read where a part of a batch would be empty


class Parts(Sampler[list[int]]):
    """The parts of each batch that this process reads, one after the other: texts are dealt out in turn.

    order: of the texts. batch_size: texts of a batch, all processes together. steps: parts that each process reads of
    it. spare: what is read where there are fewer texts than parts.
    """

    def __init__(self, order: Sampler[int], batch_size: int, steps: int, spare: int):
        self.batches = BatchSampler(order, batch_size, drop_last=False)
        self.steps, self.spare = steps, spare

    def __len__(self) -> int:
        return len(self.batches) * self.steps

    def __iter__(self) -> Iterator[list[int]]:
        parts = processes.count() * self.steps
        for batch in self.batches:
            for part in range(processes.rank(), parts, processes.count()):
                yield batch[part::parts] or [self.spare]


def by_length(rows: Dataset, batch_size: int, generator: torch.Generator | None = None) -> LengthGroupedSampler:
    """An order in which the texts of a batch are about as long. generator: None: the global one."""
    return LengthGroupedSampler(batch_size, lengths=[len(ids) for ids in rows["input_ids"]], generator=generator)


def loader(rows: Dataset, order: Sampler[int], batch_size: int, steps: int = 1, **how: Any) -> DataLoader:
    """The parts of all batches that this process reads, with the number `ROW` of each text.

    rows: tokenised texts. order, batch_size, steps: as in `Parts`. how: further arguments of the loader.
    """
    spare = len(rows)
    if processes.count() * steps > 1:
        rows = rows.add_item(rows[0] | {ROW: STAND_IN})
    return DataLoader(rows, batch_sampler=Parts(order, batch_size, steps, spare), **how)
