"""The parts of a job that are left: read, labelled, written and entered in the journal, one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow.parquet as pq

from ..data.streaming import Source
from ..errors import RejectedError
from ..inference import return_freed_memory
from ..manifest import sha256
from ..records import writes
from .cluster import Cluster
from .files import part_name, write_part
from .inputs import parts
from .journal import Journal
from .predictor import HALVED, REJECTED, Predictor
from .report import PLACES, Report

LEAST_ROWS = 1000  # before a share of rejected rows ends a job
Progress = Callable[[Report, int], None]  # what has become of the rows so far, and how many there are in all
Item = TypeVar("Item")


class Run:
    """Threads of their own read and write parts while the model answers.

    rows: of a part. limit: rows of all. max_rejected: the share of rows that may be rejected. written: the files and
    folders of the output.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        kind: str,
        predictor: Predictor,
        journal: Journal,
        progress: Progress,
        cluster: Cluster | None,
        *,
        rows: int,
        limit: int | None,
        max_rejected: float,
        written: Sequence[Path],
    ):
        self.sources, self.kind = sources, kind
        self.rows, self.limit, self.max_rejected, self.written = rows, limit, max_rejected, written
        self.predictor, self.journal, self.progress, self.cluster = predictor, journal, progress, cluster
        self.report = Report()
        for part in journal.parts:
            self.report.add(part)
        self.report.resumed = self.report.rows
        self.total = sum(source.rows for source in sources)
        self.total = min(self.total, limit or self.total)
        for source in sources:
            self.report.replaced += source.undecodable
        del self.report.replaced[predictor.text_column]  # such rows are rejected, each with its reason

    def finished(self, empty: pd.DataFrame) -> Report:
        """Do what is left. empty: a part without rows, for a job that has none."""
        self.progress(self.report, self.total)
        if self.journal.done is not None:
            return self.report
        self._check_rejected(LEAST_ROWS, None)
        with ThreadPoolExecutor(1) as pool, closing(self._labelled()) as left:
            written: Future[None] | None = None
            for number, labelled in enumerate(left, len(self.journal.parts)):
                if written is not None:
                    written.result()
                entry = self._entry(number, labelled)
                written = pool.submit(self._write, labelled, entry)
                self.report.add(entry)
                self.progress(self.report, self.total)
                self._check_rejected(LEAST_ROWS, written)
            if written is not None:
                written.result()
        self._check_rejected(0, None)
        for source in self.sources:
            source.check_unchanged()
        if self.report.rows != self.total:
            raise RuntimeError(f"{self.total:,} rows were read, and {self.report.rows:,} are written; report this")
        if not self.journal.parts:
            labelled = self.predictor.labelled(empty)
            self._write(labelled, self._entry(0, labelled))
        with writes(self.journal.folder):
            self.journal.finish({"rows": self.report.rows})
        return self.report

    def _labelled(self) -> Generator[pd.DataFrame, None, None]:
        """The labelled parts that are left."""
        rows, limit, done = self.rows, self.limit, len(self.journal.parts)
        if self.cluster is not None:
            from .on_ray import labelled_on_ray

            yield from labelled_on_ray(self.cluster, self.predictor, self.written, self.sources, rows, limit, done)
        else:
            # the finished ones are passed by one at a time, so that a signal need not wait for all of them
            for frame in islice(read_ahead(parts(self.sources, rows, limit)), done, None):
                yield self.predictor.labelled(frame)
                return_freed_memory()  # batches of ever new sizes leave holes that nothing fits into

    def _entry(self, number: int, labelled: pd.DataFrame) -> dict[str, Any]:
        """What the journal says of a part."""
        reasons = [None if pd.isna(reason) else reason for reason in labelled["reason"]]
        start = self.report.rows
        bad = [(row, reason) for row, reason in enumerate(reasons) if reason in REJECTED]
        layers = labelled["layers"].tolist() if self.predictor.counts_layers else []
        return {
            "part": number,
            "file": part_name(number, self.kind),
            "start": start,
            "rows": len(labelled),
            "scored": reasons.count(None),
            "reasons": Counter(reason for reason in reasons if reason is not None),
            "places": [f"{self._place(start + row)}: {reason}" for row, reason in bad[:PLACES]],
            "truncated": int(labelled["truncated"].sum()) if self.predictor.marks_cuts else 0,
            "halved": labelled.attrs.get(HALVED, 0),
            "layers": Counter(str(each) for each in layers if each),
        }

    def _place(self, row: int) -> str:
        """A row of all inputs, counted from 0, as the row of its file, counted from 1."""
        if len(self.sources) == 1:
            return f"row {row + 1}"
        for source in self.sources:
            if row < source.rows:
                break
            row -= source.rows
        return f"{source.path} row {row + 1}"

    def _write(self, labelled: pd.DataFrame, entry: dict[str, Any]) -> None:
        folder = self.journal.folder
        first = folder / part_name(0, self.kind)
        with writes(folder):
            schema = pq.read_schema(first) if self.kind == "parquet" and entry["part"] else None
            write_part(labelled, folder / entry["file"], schema)
            self.journal.add(entry | {"sha256": sha256(folder / entry["file"])})

    def _check_rejected(self, least: int, written: Future[None] | None) -> None:
        found = self.report
        if found.rows < least or found.rejected <= self.max_rejected * found.rows:
            return
        if written is not None:
            written.result()
        raise RejectedError(
            f"{found.rejected:,} of {found.rows:,} rows were rejected, more than {self.max_rejected:.2%}: "
            f"{'; '.join(found.places)}. Allow more with --max-rejected, and the same command goes on; or correct the "
            "input and begin anew with --overwrite"
        )


def read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each read in a thread of its own while the caller works on the one before."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
