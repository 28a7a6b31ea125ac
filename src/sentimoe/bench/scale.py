"""`sentimoe bench --scale`: does the speed of the engine last over any number of texts, and does a bulk job keep it?

The engine streams texts from memory. A job reads the same texts from a CSV file, and writes them with their labels; on
Ray, actors of one thread each do its parts. The half of the engine's texts before the job and the half after it share
out what the machine does meanwhile.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pandas as pd

from ..batch import Cluster, Job, Predictor, run
from ..evaluation import peak_memory_mib
from ..inference import BASE, domain_names, is_compressed
from .speed import MEMORY_TEXTS, BenchTexts, Progress, describe, record

COUNTS = (10_000, 100_000)


def scale(
    model: Path,
    texts: BenchTexts,
    backend: str,
    progress: Progress,
    counts: Sequence[int] = COUNTS,
    actors: Sequence[int] = (),
) -> dict[str, Any]:
    """Texts/s of the engine, of a job, and of a job on that many actors, over more and more texts; resident memory.

    share: of the texts/s of the engine. bytes: of a text in the file that is read, and in what is written, with the
    probability of each class. The seconds
    of a job on Ray are those of a user: the start of a cluster and of its actors is among them.
    """
    started = time.perf_counter()
    how: dict[str, Any] = {"domain": BASE} if domain_names(model) else {}
    predictor = Predictor(model, backend=backend, long_texts="truncate", all_answers=True, probabilities=True, **how)
    loading = {"seconds": time.perf_counter() - started, "megabytes": _bytes_below(predictor.folder) / 1e6}
    predictor.engine.predict_proba(texts.sample(MEMORY_TEXTS))
    rows: list[dict[str, Any]] = []
    sizes: dict[str, float] = {}
    for count in counts:
        engine = _engine_seconds(predictor, texts, count // 2)
        job, sizes = _job(predictor, texts, count, None)
        engine += _engine_seconds(predictor, texts, count - count // 2)
        seconds = {"engine alone": engine, "job": job}
        for number in actors:
            name = f"job on Ray, {number} actor{'s' * (number > 1)}"
            seconds[name], _ = _job(predictor, texts, count, Cluster(actors=number))
        for name, taken in seconds.items():
            row = {"texts": count, "name": name, "texts_per_second": count / taken, "share": engine / taken}
            rows.append(row | {"mib": peak_memory_mib()})
            progress(f"{count:,} texts, {name}: {count / taken:.0f} texts/s")
    found = {
        "experts": None if is_compressed(model) else describe(model),
        "backend": "openvino" if predictor.uses_openvino else backend,
        "loading": loading,
        "bytes": sizes,
        "rows": rows,
    }
    return record("scale", texts, 1) | found


def _engine_seconds(predictor: Predictor, texts: BenchTexts, count: int) -> float:
    started = time.perf_counter()
    deque(predictor.engine.stream(islice(cycle(texts.texts), count)), maxlen=0)
    return time.perf_counter() - started


def _job(
    predictor: Predictor, texts: BenchTexts, count: int, cluster: Cluster | None
) -> tuple[float, dict[str, float]]:
    """The seconds from a file to the last part, with a model that this process has loaded; bytes of a text."""
    with tempfile.TemporaryDirectory() as folder:
        given, output = Path(folder) / "in.csv", Path(folder) / "out"
        pd.DataFrame({"text": list(islice(cycle(texts.texts), count))}).to_csv(given, index=False)
        report = run(Job([given], output), lambda column: predictor, {}, lambda rows, rejected: None, cluster)
        sizes = {"read": given.stat().st_size / count, "written": _bytes_below(output) / count}
    return report.seconds, sizes


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
