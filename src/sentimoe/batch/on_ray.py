"""The parts of a job on a Ray cluster: read where the job was started, answered by actors, given back in order.

Ray Data carries the parts: each is a row of its data set, a block, and a task. An actor that dies is started again and
its part is read again; `quarantine` finds out whether a row was the cause. What is raised on the way travels as a part
does, since Ray would hide what it was.
"""

from __future__ import annotations

import logging
import os
import pickle
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from ..data.streaming import Source
from ..errors import ConfigError, SentiMoEError
from ..inference import return_freed_memory
from ..machine import versions
from .cluster import CPUS, Cluster
from .inputs import parts
from .predictor import DIED, HALVED, Predictor
from .quarantine import DEATHS, Attempts, pieces

logger = logging.getLogger(__name__)
READER_CPUS = 0  # so that it runs on a head node without processors


@dataclass(frozen=True)
class Parts(Datasource):
    """The parts of the inputs, from the first that is not done, read one after the other by one task."""

    sources: Sequence[Source]
    rows: int
    limit: int | None
    done: int

    def estimate_inmemory_data_size(self) -> int | None:
        """Not known before the inputs are read."""
        return None

    def get_read_tasks(self, parallelism: int, *settings: Any, **more: Any) -> list[ReadTask]:
        """One task, whatever parallelism is asked for: the inputs are read in order."""
        size = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(self.tables, size)]

    def tables(self) -> Iterator[pa.Table]:
        """Each part as a table of one row."""
        number = -1
        try:
            for number, frame in enumerate(parts(self.sources, self.rows, self.limit)):
                if number >= self.done:
                    yield _table(number, frame)
        except Exception as error:  # noqa: BLE001 - raised where the job was started
            yield _table(number + 1, error)


class Worker:
    """An actor: it holds the model, and answers a part at a time. there: what the model is where the job was begun.

    What is wrong with the model is told by the first part: Ray takes an actor that cannot be made for a dead machine.
    """

    def __init__(self, predictor: bytes, there: dict[str, Any], written: Sequence[Path], on_gpu: bool, attempts: Any):
        self.attempts = attempts
        self.error: Exception | None = None
        if not on_gpu:  # Ray hides no GPU from those who ask for none
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(1)  # also where OMP_NUM_THREADS says otherwise, which Ray leaves alone
        try:
            self.predictor = self._checked(predictor, there, written)
        except ray.exceptions.RayError:
            raise
        except Exception as error:  # noqa: BLE001 - raised where the job was started
            self.error = error

    def _checked(self, given: bytes, there: dict[str, Any], written: Sequence[Path]) -> Predictor:
        """The predictor, if it is the one of the machine where the job was started. Raises ConfigError."""
        predictor: Predictor = pickle.loads(given)
        if predictor.hashes(written) != there["hashes"]:
            raise ConfigError(
                f"{predictor.folder} on {ray.util.get_node_ip_address()} is not the model of the machine where "
                "the job was started; copy it there"
            )
        if (here := versions()) != there["versions"]:
            other = {name: value for name, value in here.items() if there["versions"].get(name) != value}
            raise ConfigError(
                f"{ray.util.get_node_ip_address()} has other versions than the machine where the job was started: "
                f"{', '.join(f'{name} {value}' for name, value in other.items())}; install the same"
            )
        for reason in predictor.uncertified():
            if reason not in there["uncertified"]:
                where = f"on {ray.util.get_node_ip_address()}, the certificate of {predictor.folder}"
                ray.get(self.attempts.note.remote(f"{where} {reason}; it may not hold there"))
        return predictor

    def __call__(self, batch: pa.Table) -> pa.Table:
        part, frame = batch["part"][0].as_py(), pickle.loads(batch["rows"][0].as_py())
        if isinstance(frame, Exception):
            return batch
        if self.error is not None:
            return _table(part, self.error)
        try:
            return _table(part, self._labelled(part, frame))
        except ray.exceptions.RayError:  # the cluster failed: the same command goes on
            raise
        except Exception as error:  # noqa: BLE001 - raised where the job was started
            return _table(part, error)

    def _labelled(self, part: int, frame: pd.DataFrame) -> pd.DataFrame:
        deaths, elsewhere = ray.get(self.attempts.begin.remote(part))
        if elsewhere >= DEATHS:
            raise ConfigError(
                f"{elsewhere} processes died at part {part}, at none of its rows: it probably takes more memory than "
                "an actor has; use fewer actors"
            )
        labelled = []
        for piece in pieces(len(frame), deaths):
            if not piece.rejected:
                ray.get(self.attempts.reading.remote(part, piece))
            rows = frame.iloc[piece.start : piece.stop]
            labelled.append(self.predictor.labelled(rows, DIED if piece.rejected else None))
        ray.get(self.attempts.reading.remote(part, None))
        whole = labelled[0] if len(labelled) == 1 else pd.concat(labelled)
        whole.attrs[HALVED] = sum(piece.attrs.get(HALVED, 0) for piece in labelled) + len(deaths)
        return_freed_memory()  # as in a job without Ray
        ray.get(self.attempts.end.remote(part))
        return whole


def _table(part: int, found: pd.DataFrame | Exception) -> pa.Table:
    """A part, or what was raised instead of it, as a row for Ray."""
    if isinstance(found, Exception) and not isinstance(found, SentiMoEError):  # a bug: how it came about
        found = RuntimeError("".join(traceback.format_exception(found)))
    return pa.table({"part": [part], "rows": [pickle.dumps(found)]})


def labelled_on_ray(
    cluster: Cluster,
    predictor: Predictor,
    written: Sequence[Path],
    sources: Sequence[Source],
    rows: int,
    limit: int | None,
    done: int,
) -> Iterator[pd.DataFrame]:
    """The labelled parts, in order.

    written: files and folders of the output, which may lie in the folder of the model. rows: of a part. limit: rows of
    all. done: parts that are left out.

    Raises what `Cluster.connected` raises, and what reading or answering raises.
    """
    here = [replace(source, path=source.path.resolve()) for source in sources]
    with cluster.connected() as actors, DataContext.current(_context()):
        local = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        attempts: Any = ray.remote(Attempts).options(num_cpus=0, label_selector=local).remote()
        told = {"hashes": predictor.hashes(written), "uncertified": predictor.uncertified(), "versions": versions()}
        given = ray.data.read_datasource(
            Parts(here, rows, limit, done), override_num_blocks=1, num_cpus=READER_CPUS, label_selector=local
        )
        found = given.map_batches(
            Worker,
            fn_constructor_args=(pickle.dumps(predictor), told, list(written), cluster.gpus > 0, attempts),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=actors),
            num_cpus=CPUS,
            num_gpus=cluster.gpus or None,
        )
        noted: set[str] = set()
        for expected, row in enumerate(found.iter_rows(), done):
            labelled = pickle.loads(row["rows"])
            if isinstance(labelled, Exception):
                raise labelled
            if row["part"] != expected:
                raise RuntimeError(f"Ray gave part {row['part']} where part {expected} was due; report this")
            for note in ray.get(attempts.notes.remote()):
                if note not in noted:
                    logger.warning(note)
                noted.add(note)
            yield labelled


def _context() -> DataContext:
    """Blocks of one part each, in order, without bars and without reports."""
    context = DataContext.get_current().copy()
    context.target_max_block_size = context.target_min_block_size = 1
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = DEATHS  # a machine may be lost while the model is loaded
    context.checkpoint_config, context.max_errored_blocks = None, 0  # the journal knows what is done
    context.issue_detectors_config.detectors = []
    return context
