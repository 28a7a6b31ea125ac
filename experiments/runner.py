"""Running a declared study: each of its runs leaves one JSON under `results/runs/` and is never run twice.

Any number of processes may run one study: each takes the runs that no other is at.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_OFFLINE

from sentimoe.errors import ConfigError, NotSupportedError
from sentimoe.methods import METHODS, ZeroShot
from sentimoe.records import read_json, write_json
from sentimoe.training import Stop, TrainConfig, with_recipe
from sentimoe.upcycle import PACKAGED, backbone_path

from .perform import Run, head, outcome_of, perform, told, trained, validation_scores

PAUSE = 10.0  # seconds
PENDING = "pending"
NOT_AT_HAND = "weights not at hand"
NOT_SUPPORTED = "not supported"


@dataclass(frozen=True)
class Trainer:
    """Does the runs of a study, and keeps the models that others learn from. models: where. stop: ends it early."""

    study: list[Run]
    results: Path
    data_root: Path | None
    models: Path
    progress: Callable[[str], None]
    stop: Stop | None = None

    def taught(self, run: Run) -> Run:
        """The run with the folders of its teachers, which are trained where they are missing: its own seed's first."""
        if not run.teacher:
            return run
        if run.teacher_seeds and run.seed not in run.teacher_seeds and METHODS[run.method].keeps_teacher:
            raise ConfigError(
                f"{run.name}: {run.method} is made from the teacher of its own seed {run.seed}, which teacher_seeds "
                f"{list(run.teacher_seeds)} must name"
            )
        seeds = sorted(run.teacher_seeds or (run.seed,), key=lambda seed: seed != run.seed)
        return replace(run, teacher_folders=tuple(str(self.teacher(run, seed)) for seed in seeds))

    def teaches(self, run: Run) -> bool:
        """Whether another run of the study learns from this one."""
        return any(_is_teacher(run, student) for student in self.study)

    def teacher(self, run: Run, seed: int) -> Path:
        """The folder of a trained teacher of a run. Raises ConfigError when the study does not declare it."""
        found = next((other for other in self.study if _is_teacher(other, run) and other.seed == seed), None)
        if found is None:
            raise ConfigError(
                f"{run.name}: the study has no default run of {run.teacher!r} with seed {seed} to teach it; add it"
            )
        return self.kept(found)

    def place(self, run: Run) -> Path:
        """Where the model of a run is kept."""
        return self.models / run.name

    def unfinished(self, run: Run) -> Path:
        """Where a run trains: there one that was killed goes on."""
        return self.models / ".unfinished" / run.name

    def lock(self, run: Run) -> FileLock:
        """Held by the one process that trains a run; raises filelock.Timeout where another one holds it."""
        folder = self.models / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{run.name}.lock", timeout=0)

    def forget(self, run: Run) -> None:
        """Remove what a run left to go on from, once its result is written."""
        if self.unfinished(run).exists():  # a method that only asks leaves nothing
            shutil.rmtree(self.unfinished(run))

    def kept(self, run: Run) -> Path:
        """The folder of the trained model of a run, which is trained again where none of these settings was kept."""
        folder, run = self.place(run), self.tuned(run)
        with self.lock(run):
            config = folder / "config.yaml"
            stored = yaml.safe_load(config.read_text(encoding="utf-8")) if config.exists() else None
            if stored is None or not _has_rate(run, stored) or differing(run, stored, but=NOT_KEPT):
                run = self.taught(run)
                self.progress(f"training {run.name} for its weights")
                trained(run, run.config(self.data_root), self.unfinished(run), keep=folder, stop=self.stop)
                self.forget(run)
        return folder

    def tuned(self, run: Run) -> Run:
        """The run with the learning rate that was best on validation with seed 0 and the default recipe of its method.

        An entry with a `tune` of its own chooses for its own recipe. Every trial leaves a JSON under `results/tuning/`;
        the test split is never looked at.
        """
        best: tuple[float, float] = (-1.0, 0.0)
        for factor, trial, path in self._trials(run):
            with self.lock(trial):
                if not path.exists():
                    self._try(self.taught(trial), factor, path)
            stored = read_json(path)
            check_alike(trial, stored["hyperparameters"], path)
            score = stored["validation"]["f1_weighted"]
            if score > best[0]:  # of equal ones the first factor stands
                best = (score, stored["hyperparameters"]["learning_rate"])
        return replace(run, settings=run.settings | {"learning_rate": best[1]}) if best[1] else run

    def untried(self, run: Run) -> list[Path]:
        """Results of trials that choosing the rate of a run still needs."""
        return [path for _, _, path in self._trials(run) if not path.exists()]

    def _trials(self, run: Run) -> list[tuple[float, Run, Path]]:
        """The factors, runs and results by which the rate of a run is chosen; none where it is not tuned."""
        if not run.tune or "learning_rate" in run.settings:  # in them once it was chosen
            return []
        alike = [other for other in self.study if _cell(other) == _cell(run) and other.recipe == "default"]
        chosen = replace(run if run.own_tune or not alike else alike[0], seed=0)
        prefix = f"{chosen.recipe}-" if chosen.own_tune else ""
        trials = [(factor, replace(chosen, recipe=f"{prefix}rate-x{factor:g}")) for factor in chosen.tune]
        return [(factor, trial, self.results / "tuning" / f"{trial.name}.json") for factor, trial in trials]

    def _try(self, trial: Run, factor: float, path: Path) -> None:
        started = time.monotonic()
        config = replace(trial.config(self.data_root), learning_rate_factor=factor)
        outcome = outcome_of(trial, config, self.unfinished(trial), stop=self.stop)
        scores = validation_scores(trial, outcome)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, head(trial, outcome) | {"validation": scores, "seconds": round(time.monotonic() - started, 1)})
        self.forget(trial)
        self.progress(f"tuning {trial.name}: validation {scores['f1_weighted']:.4f}")

    def finish(self, run: Run, keep_model: bool) -> None:
        """Run what has no result yet, or one of another learning rate than tuning chooses now."""
        path = _path(run, self.results)
        if path.exists() and not run.tune:
            return
        run = self.tuned(run)
        if path.exists() and _has_rate(run, read_json(path)["hyperparameters"]):
            return
        run = self.taught(run)
        self.progress(f"{run.name} ...")
        keep = METHODS[run.method].adapt is not None and (keep_model or self.teaches(run))
        place = self.place(run) if keep else None
        record = perform(run, self.results, self.data_root, self.unfinished(run), keep=place, stop=self.stop)
        self.forget(run)
        scores = [record[split]["f1_weighted"] for split in ("validation", "test")]
        self.progress(f"{run.name}: validation {scores[0]:.4f}, test {scores[1]:.4f}, {record['seconds']:.0f} s")


def run_study(
    study: list[Run],
    results: Path,
    *,
    wanted: Callable[[Run], bool] = lambda run: True,
    data_root: Path | None = None,
    budget: float | None = None,
    models: Path = Path("runs/models"),
    name: str = "study",
    keep_models: bool = False,
    progress: Callable[[str], None] = print,
    stop: Stop | None = None,
) -> int:
    """Run what is wanted and has no result yet, in order; returns how many of these runs are still missing.

    budget: seconds; a run that would probably not end in time, with the trials that it lacks (each as long as the
    longest run on the same data and model so far), is not started. A finished run is run again only when its grid was
    changed and now chooses another learning rate. A run whose weights are not at hand, or whose method does not exist
    for its model, is passed over; one that another process is at is left to the end, when it has a result, or that
    process was stopped. `results/declared/NAME.json` lists every run of the study, and for those without a result the
    reason.
    models: where trained teachers are kept, with `keep_models` every trained model, and where runs train: one that was
    killed goes on from its last checkpoint. Raises ConfigError when its settings were changed since, and StoppedError
    when `stop` says so.
    """
    started, chosen = time.monotonic(), [run for run in study if wanted(run)]
    trainer = Trainer(study, results, data_root, models, progress, stop)
    _declare(study, results, name)
    for run in chosen:
        if _path(run, results).exists():
            check_alike(run, read_json(_path(run, results))["hyperparameters"], _path(run, results))

    def busy(run: Run) -> bool:
        """Do a run if it is to be done; whether another process is at it, or at what it needs."""
        finished = _path(run, results).exists()
        if _refused(run, results) is not None or (finished and not (run.tune and at_hand(run.model))):
            return False
        if not at_hand(run.model):
            progress(f"{run.name}: {NOT_AT_HAND}")
            return False
        expected = max(60.0, _longest(results, run) * (1 + len(trainer.untried(run))))
        if budget is not None and budget - (time.monotonic() - started) < expected:
            return False
        try:
            with trainer.lock(run):
                trainer.finish(run, keep_models)
        except Timeout:
            return True
        except NotSupportedError as refusal:
            _refusal(run, results).parent.mkdir(parents=True, exist_ok=True)
            write_json(_refusal(run, results), {"reason": str(refusal), "settings": _settings(run)})
            progress(f"{run.name}: {NOT_SUPPORTED}: {refusal}")
        return False

    left = [run for run in chosen if busy(run)]
    if left:
        progress(f"waiting for what other processes are at: {', '.join(run.name for run in left)}")
    while left:
        time.sleep(PAUSE)
        left = [run for run in left if busy(run)]
    _declare(study, results, name)
    return sum(not _path(run, results).exists() for run in chosen)


def at_hand(model: str) -> bool:
    """Whether the weights of a model can be had: packaged, a folder, from the hub, or offline from the hub's cache."""
    if model in PACKAGED or Path(model).is_dir() or not HF_HUB_OFFLINE:
        return True
    return isinstance(try_to_load_from_cache(backbone_path(model), "config.json"), str)


def status(run: Run, results: Path) -> str:
    """Why a run has no result; "" when it has one."""
    if _path(run, results).exists():
        return ""
    if (reason := _refused(run, results)) is not None:
        return f"{NOT_SUPPORTED}: {reason}"
    return PENDING if at_hand(run.model) else NOT_AT_HAND


def check_alike(run: Run, stored: dict[str, Any], path: Path) -> None:
    """Raises ConfigError when a stored run had other settings than are declared now."""
    if different := differing(run, stored):
        raise ConfigError(
            f"{run.name} has a result with other settings ({'; '.join(different)}); give the changed run a `recipe` of "
            f"its own, or remove {path}"
        )


def differing(run: Run, stored: dict[str, Any], but: tuple[str, ...] = ()) -> list[str]:
    """What is declared otherwise now than stored. A learning rate that tuning chose is not looked at.

    What a result does not say, because it is older than the setting, is the default. A value that is left open (None)
    was filled in. The data are not looked at: results of one cell with several hashes are not rendered.
    """
    wanted = {"limit": run.limit, "teacher_seeds": None} | _settings(run)
    default = with_recipe(TrainConfig()).to_dict() | {"long_texts": "windows"}
    skipped = [*but, *(key for key in OPEN if wanted[key] is None)]
    if "rate_is" not in stored:
        skipped.append("rate_is")
    if run.tune:
        skipped += ["learning_rate", "learning_rate_factor"]
    if METHODS[run.method].adapt is None:  # a language model is asked, and most settings do not concern it
        skipped += set(wanted) - set(stored) - {"limit"}
        mode = signature(ZeroShot).parameters["mode"].default
        wanted["method_settings"] = {"mode": mode} | wanted["method_settings"]
    return [
        f"{key}: {stored.get(key, default.get(key))!r} in the result, {value!r} in the study"
        for key, value in wanted.items()
        if key not in skipped and stored.get(key, default.get(key)) != value
    ]


OPEN = ("learning_rate", "distillation_hidden_weight", "epochs", "batch_size", "patience", "head_init")
NOT_KEPT = ("long_texts", "limit", "teacher", "teacher_seeds", "more_train")  # of a folder's config: paths, or nothing


def _cell(run: Run) -> tuple[str, str, str]:
    return run.data, run.model, run.method


def _is_teacher(run: Run, student: Run) -> bool:
    wanted, seeds = (student.data, student.model, student.teacher), student.teacher_seeds or (student.seed,)
    return _cell(run) == wanted and run.seed in seeds and run.recipe == "default"


def _declare(study: list[Run], results: Path, name: str) -> None:
    (results / "declared").mkdir(parents=True, exist_ok=True)
    rows = [
        {key: getattr(run, key) for key in ("data", "model", "method", "recipe", "seed")}
        | {"missing": status(run, results)}
        for run in study
    ]
    write_json(results / "declared" / f"{name}.json", rows)


def _has_rate(run: Run, stored: dict[str, Any]) -> bool:
    """Whether what was stored has the learning rate that tuning chose."""
    return stored["learning_rate"] == run.settings.get("learning_rate", stored["learning_rate"])


def _path(run: Run, results: Path) -> Path:
    return results / "runs" / f"{run.name}.json"


def _refusal(run: Run, results: Path) -> Path:
    return results / "refused" / f"{replace(run, seed=0).name}.json"


def _settings(run: Run) -> dict[str, Any]:
    config = replace(run, teacher_folders=("teacher",) if run.teacher else ()).config(None)
    return told(run, replace(with_recipe(config), distillation_hidden_weight=config.distillation_hidden_weight))


def _refused(run: Run, results: Path) -> str | None:
    """Why these settings of a run are not supported; None when nothing is known against them."""
    path = _refusal(run, results)
    stored = read_json(path) if path.exists() else None
    return stored["reason"] if stored is not None and stored.get("settings") == _settings(run) else None


def _longest(results: Path, run: Run) -> float:
    """Seconds of the longest stored run on the same data and model; 0 when there is none."""
    seconds = [0.0]
    for path in (results / "runs").glob(f"{run.data}__{run.model.replace('/', '-')}__*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        seconds += [record["seconds"], record["cost"]["training_seconds"] or 0.0]  # longer, if the run went on
    return max(seconds)
