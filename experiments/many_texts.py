"""Do experts pay where texts are plenty? Students of one teacher, on 3,000 to 92,000 texts without labels.

The teacher is the mean answer of three dense all-mpnet-base-v2. A student, all-MiniLM-L6-v2, learns its answers alone.
What it has learnt is measured on texts that no student read: the divergence from the teacher, KL(teacher || student),
and F1 on the labelled test texts. `docs/where-experts-pay.md` has the rule, which was written before any of these
students was trained. Each step leaves a file and is not done twice; any number of processes may share the work.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from sentimoe.bench.flops import gflops_per_text
from sentimoe.data import SentimentDataset, Split, load_dataset
from sentimoe.data.dataset import content_hash
from sentimoe.errors import ConfigError
from sentimoe.evaluation import active_parameters, classification_metrics
from sentimoe.inference import Engine
from sentimoe.machine import hardware, versions
from sentimoe.records import read_json, write_json, written_aside
from sentimoe.training import Prepared, Stop, TrainConfig, finished, fit, prepare, train_model
from sentimoe.training.distillation import NO_LABEL, Distillation
from sentimoe.training.kept_answers import TeacherAnswers

STUDENT, TEACHER, TEACHERS = "all-MiniLM-L6-v2", "all-mpnet-base-v2", (0, 1, 2)
TOKENS = 64
HELD_OUT, CHOICE = 5_000, 2_000  # texts on which students are measured, and on which learning rates are chosen
FACTORS, TUNING_SIZE, TUNING_SEEDS = (1.0, 2.0, 4.0), 20_000, (0, 1)
SEEDS = (2, 3, 4)  # others than those that chose the rates
BATCH_SIZES = {3_000: 32, 20_000: 64, 91_996: 128}  # by the number of texts: 188, 626 and 1,438 steps in two epochs
DATA, POOL, POOL_SIZE = "tweeteval-emotion", "tweets-unlabelled.parquet", 98_996

NOISE = {"init_noise": 0.05}
ALL = [0, 1, 2, 3, 4, 5]


class Row(NamedTuple):
    """A kind of student. rate_of: the row whose learning rate it has."""

    method: str
    settings: dict[str, Any]
    epochs: int
    rate_of: str


ROWS = {
    "dense": Row("full", {}, 2, "dense"),
    # the training compute of `gated-2-of-4`, which is 1.44 times that of `dense`, and a little more
    "dense-longer": Row("full", {}, 3, "dense"),
    "plain-1-of-8": Row(
        "moe-plain", NOISE | {"num_experts": 8, "num_experts_per_tok": 1, "layers_to_transform": ALL}, 2, "plain-1-of-8"
    ),
    "gated-2-of-4": Row("moe-gated", NOISE, 2, "gated-2-of-4"),
}  # fmt: skip
TUNED = tuple(name for name, row in ROWS.items() if row.rate_of == name)


class Cell(NamedTuple):
    """One student. factor: of the method's default learning rate; None: the one that was chosen."""

    row: str
    size: int
    seed: int
    factor: float | None = None

    @property
    def name(self) -> str:
        """The name of its files."""
        tried = "" if self.factor is None else f"__x{self.factor:g}"
        return f"{DATA}__{self.row}__n{self.size}{tried}__s{self.seed}"


class Parts(NamedTuple):
    """The texts without labels, in one order for all: held out, for choosing rates, and to learn on."""

    held_out: list[str]
    choice: list[str]
    train: list[str]


class Study(NamedTuple):
    """Where the data lie, where teachers answer, and where results go. stop: looked at between steps."""

    data_root: Path
    work: Path
    results: Path
    progress: Callable[[str], None]
    stop: Stop | None = None

    def run(self, cells: list[Cell]) -> None:
        """Teach, choose rates and train what has no result yet and no other process is at."""
        for cell in cells:
            check(cell)
        self.all_of([self.results / f"{DATA}__teacher.npz"], self.average)
        self._check_texts()
        tried = [Cell(row, TUNING_SIZE, seed, x) for x in FACTORS for row in TUNED for seed in TUNING_SEEDS]
        self.all_of([self.path(cell) for cell in tried], lambda path: self.student(_named(path, tried)))
        for cell in cells:
            with self.alone(self.path(cell)) as free:
                if free:
                    self.student(cell)
                elif self.path(cell).exists():
                    self._check_settings(cell)

    def path(self, cell: Cell) -> Path:
        """Where the result of a student lies."""
        return self.results / ("students" if cell.factor is None else "tuning") / f"{cell.name}.json"

    @contextmanager
    def alone(self, path: Path) -> Iterator[bool]:
        """Whether a file is missing, and no other process makes it; none does while the block runs."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.work / f"{path.stem}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield not path.exists()
        finally:
            lock.release()

    def all_of(self, paths: list[Path], make: Callable[[Path], None]) -> None:
        """Make files, and wait for those that other processes make."""
        while missing := [path for path in paths if not path.exists()]:
            for path in missing:
                with self.alone(path) as free:
                    if free:
                        make(path)
            time.sleep(1)

    def parts(self) -> Parts:
        """The texts without labels."""
        path = self.work / f"{DATA}__texts.parquet"
        if not path.exists():
            self.work.mkdir(parents=True, exist_ok=True)
            texts = pd.read_parquet(self.data_root / POOL)["text"]
            with written_aside(path) as partial:
                texts.sample(POOL_SIZE, random_state=0).to_frame("text").to_parquet(partial, index=False)
        every: list[str] = pd.read_parquet(path)["text"].tolist()
        return Parts(every[:HELD_OUT], every[HELD_OUT : HELD_OUT + CHOICE], every[HELD_OUT + CHOICE :])

    def _check_texts(self) -> None:
        """Raises ConfigError where the texts are not those of the trials, which the teacher answered in this order."""
        train = self.parts().train[:TUNING_SIZE]
        own = content_hash({"train": Split(train, [NO_LABEL] * len(train))})
        for path in sorted((self.results / "tuning").glob(f"{DATA}__*.json")):
            if read_json(path)["train_sha256"] != own:
                raise ConfigError(f"the texts are not those of {path}: the answers of the teacher would be of others")

    def _check_settings(self, cell: Cell) -> None:
        """Raises ConfigError where a student was trained with other settings than it would be now."""
        record, config = read_json(self.path(cell)), self.config(cell)
        now = {"epochs": config.epochs, "batch_size": config.batch_size, "factor": config.learning_rate_factor}
        before = {key: record[key] for key in now}
        if before != now:
            raise ConfigError(f"{self.path(cell)} was made with {before}, and now it is {now}; remove it")

    def config(self, cell: Cell) -> TrainConfig:
        """How a student is trained."""
        row = ROWS[cell.row]
        return TrainConfig(
            model=STUDENT, data=str(self.data_root / DATA), method=row.method, method_settings=row.settings,
            epochs=row.epochs, batch_size=BATCH_SIZES[cell.size], max_length=TOKENS, patience=0, head_init="random",
            merge=False, learning_rate_factor=self.rate_factor(cell), seed=cell.seed,
        )  # fmt: skip

    def dataset(self) -> SentimentDataset:
        """The labelled texts."""
        return load_dataset(str(self.data_root / DATA))

    def teach(self, path: Path) -> None:
        """Train one teacher and have it answer all texts without labels: `[N, C]` probabilities."""
        seed = int(path.stem[-1])
        config = TrainConfig(
            model=TEACHER, data=str(self.data_root / DATA), method="full", epochs=3, max_length=128, seed=seed
        )
        with tempfile.TemporaryDirectory() as folder:
            done = train_model(config, Path(folder), progress=False)
        engine = Engine(done.model, done.tokenizer, max_length=TOKENS, long_texts="truncate")
        answers = engine.predict_proba([text for part in self.parts() for text in part])
        scores = _scores(engine, done.dataset.splits["test"], done.dataset)
        with written_aside(path) as partial, partial.open("wb") as stream:
            np.savez_compressed(stream, probabilities=answers.astype(np.float32), f1_weighted=scores["f1_weighted"])
        self.progress(f"{path.stem}: weighted F1 {scores['f1_weighted']:.4f}")

    def average(self, path: Path) -> None:
        """Write the mean answer of the teachers, in 16 bits, and the weighted F1 of each."""
        files = [self.work / f"{DATA}__teacher{seed}.npz" for seed in TEACHERS]
        self.all_of(files, self.teach)
        found = [dict(np.load(file)) for file in files]
        mean = np.mean([each["probabilities"] for each in found], axis=0)
        with written_aside(path) as partial, partial.open("wb") as stream:
            np.savez_compressed(
                stream,
                probabilities=mean.astype(np.float16),
                f1_weighted=[float(each["f1_weighted"]) for each in found],
            )

    def answers(self) -> np.ndarray:
        """The teacher's probabilities `[N, C]` for held-out, choice and training texts in turn."""
        found = np.load(self.results / f"{DATA}__teacher.npz")["probabilities"].astype(np.float64)
        return found / found.sum(axis=1, keepdims=True)

    def rate_factor(self, cell: Cell) -> float:
        """The factor of the default learning rate under which the row came closest to the teacher, on two seeds."""
        if cell.factor is not None:
            return cell.factor

        def divergence(factor: float) -> float:
            tried = [Cell(ROWS[cell.row].rate_of, TUNING_SIZE, seed, factor) for seed in TUNING_SEEDS]
            return float(np.mean([read_json(self.path(each))["choice"]["kl"] for each in tried]))

        return min(FACTORS, key=divergence)

    def student(self, cell: Cell) -> None:
        """Train one student and measure it."""
        started, row = time.perf_counter(), ROWS[cell.row]
        dataset, parts, answers = self.dataset(), self.parts(), self.answers()
        config = self.config(cell)
        ready = taught(prepare(config, dataset), parts.train[: cell.size], answers[HELD_OUT + CHOICE :][: cell.size])
        unfinished = self.work / ".unfinished" / cell.name
        begun = {"config": config.to_dict(), "versions": versions()}
        if unfinished.exists() and read_json(unfinished / "begun.json") != begun:
            shutil.rmtree(unfinished)
        unfinished.mkdir(parents=True, exist_ok=True)
        write_json(unfinished / "begun.json", begun)
        fitted = fit(ready, unfinished, resume=True, stop=self.stop)
        engine = Engine(
            finished(ready), ready.tokenizer, max_length=TOKENS, long_texts="truncate", precision="float32"
        )  # in 16 bits a router could choose another expert
        measured = {
            "held_out": divergences(answers[:HELD_OUT], engine.predict_proba(parts.held_out)),
            "choice": divergences(answers[HELD_OUT : HELD_OUT + CHOICE], engine.predict_proba(parts.choice)),
        }
        record: dict[str, Any] = {"data": DATA} | cell._asdict() | {
            "factor": config.learning_rate_factor, "method": row.method, "epochs": row.epochs,
            "method_settings": ready.config.method_settings,
            "learning_rate": ready.config.learning_rate, "batch_size": ready.config.batch_size, "tokens": TOKENS,
            **{part: {"kl": float(found.mean())} for part, found in measured.items()},
        }  # fmt: skip
        if cell.factor is None:  # a trial reads no test text
            test = dataset.splits["test"]
            record |= {
                "test": _scores(engine, test, dataset),
                "validation": _scores(engine, dataset.splits["validation"], dataset),
                "gflops_per_text": round(gflops_per_text(engine, test.texts), 4),
                "parameters": sum(parameter.numel() for parameter in engine.model.parameters()),
                "active_parameters": active_parameters(engine.model),
            }  # fmt: skip
            told = {"kl": measured["held_out"].astype(np.float16), "test": engine.predict_proba(test.texts).argmax(1)}
            labels = np.asarray(test.labels, dtype=np.int8)
            with written_aside(self.path(cell).with_suffix(".npz")) as partial, partial.open("wb") as stream:
                np.savez_compressed(stream, kl=told["kl"], predictions=told["test"].astype(np.int8), labels=labels)
        record |= {
            "training_seconds": round(fitted.seconds, 1), "seconds": round(time.perf_counter() - started, 1),
            "train_sha256": content_hash({"train": ready.train}), "data_sha256": dataset.sha256,
            "versions": versions(), "hardware": hardware(),
        }  # fmt: skip
        write_json(self.path(cell), record)
        shutil.rmtree(unfinished)
        self.progress(f"{cell.name}: KL {record['held_out']['kl']:.4f}, {record['seconds']:.0f} s")


def check(cell: Cell) -> None:
    """Raises ConfigError for a row, a size or a seed that is not declared."""
    for name, given, known in (("row", cell.row, ROWS), ("size", cell.size, BATCH_SIZES), ("seed", cell.seed, SEEDS)):
        if given not in known:
            raise ConfigError(f"{name} {given!r} is not declared; choose among {', '.join(map(str, known))}")


def taught(ready: Prepared, texts: list[str], answers: np.ndarray) -> Prepared:
    """The run with the answers `[N, C]` of a teacher to texts without labels in place of its labelled texts."""
    train = Split(texts, [NO_LABEL] * len(texts))
    return replace(ready, train=train, distillation=Distillation(1.0, 1.0), answers=TeacherAnswers("", answers))


def divergences(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """KL(teacher || student) of each text `[B]`, in nats, from probabilities `[B, C]`."""
    ours, theirs = (np.clip(each.astype(np.float64), 1e-12, None) for each in (student, teacher))
    return (theirs * (np.log(theirs) - np.log(ours))).sum(axis=1)


def _scores(engine: Engine, split: Split, dataset: SentimentDataset) -> dict[str, float]:
    found = classification_metrics(np.asarray(split.labels), engine.predict_proba(split.texts), dataset.label_names)
    return {key: found[key] for key in ("n", "accuracy", "f1_weighted", "f1_macro")}


def _named(path: Path, cells: list[Cell]) -> Cell:
    return next(cell for cell in cells if cell.name == path.stem)
