"""A declared study: a YAML file of runs, each of which leaves one JSON under `results/runs/` and is never run twice.

Any number of processes may run one study: each takes the runs that no other is at.

The file has four parts. `data`, `models` and `methods` hold the settings of each name (fields of `TrainConfig`, and
`tune`: factors of the default learning rate to choose from on validation, with seed 0). `runs` lists what to run:
`data`, `model`, `method` and `seed` may be lists and stand for all combinations; `recipe` names a variation, `settings`
and `method_settings` say what varies. The setting `teacher` names a method: its default run of the same data, model and
seed teaches, and is trained first where its weights are not kept yet; `teacher_seeds` are those of several teachers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_OFFLINE

from ..config import read_yaml
from ..errors import ConfigError, NotSupportedError
from ..methods import METHODS, check_settings
from ..upcycle import PACKAGED, backbone_path
from .perform import Run, head, outcome_of, perform, trained, validation_scores
from .records import read_json, write_json

PENDING = "pending"
NOT_AT_HAND = "weights not at hand"
NOT_SUPPORTED = "not supported"


def read_study(path: Path) -> list[Run]:
    """The runs of a study file, in order. Raises ConfigError for what does not fit, before anything runs."""
    study = read_yaml(path, "study file", f"the parts {', '.join(PARTS)}")
    if set(study) != set(PARTS):
        raise ConfigError(f"{path} has the parts {sorted(study)}; it must have {', '.join(PARTS)}")
    runs = [run for entry in study["runs"] for run in _expand(entry, study, path)]
    seen: dict[str, Run] = {}
    for run in runs:
        check_settings(run.method, run.settings["method_settings"])
        # a stand-in, because settings such as `unlabelled` want a teacher
        replace(run, teacher_folders=("teacher",) if run.teacher else ()).config(None)
        if seen.setdefault(run.name, run) != run:
            raise ConfigError(f"{path}: {run.name} is declared twice with different settings; name one with `recipe`")
    return list(seen.values())


PARTS = ("data", "models", "methods", "runs")
ENTRY = {"data", "model", "method", "seed", "recipe", "settings", "method_settings", "tune"}
# fields of Run among the settings; the others are fields of TrainConfig
OF_THE_RUN = ("long_texts", "limit", "teacher", "teacher_seeds")


def _expand(entry: dict[str, Any], study: dict[str, Any], path: Path) -> Iterator[Run]:
    if unknown := sorted(set(entry) - ENTRY):
        raise ConfigError(f"{path}: a run has unknown keys {unknown}; allowed are {sorted(ENTRY)}")
    if absent := sorted({"data", "model", "method", "seed"} - set(entry)):
        raise ConfigError(f"{path}: a run does not say {', '.join(absent)}")
    axes = [entry[key] if isinstance(entry[key], list) else [entry[key]] for key in ("data", "model", "method", "seed")]
    for data, model, method, seed in product(*axes):
        parts = []
        for kind, name in (("data", data), ("models", model), ("methods", method)):
            if name not in study[kind]:
                raise ConfigError(f"{path}: {name!r} is not listed under {kind}; add it there")
            parts.append(dict(study[kind][name] or {}))
        parts.append(dict(entry.get("settings", {})) | {"method_settings": entry.get("method_settings", {})})
        method_settings = {k: v for part in parts for k, v in part.pop("method_settings", {}).items()}
        merged = {key: value for part in parts for key, value in part.items()}
        tune = tuple(entry.get("tune", merged.pop("tune", ())))
        own_tune = "tune" in entry and entry.get("recipe", "default") != "default"
        merged.pop("tune", None)
        of_the_run = {key: merged.pop(key) for key in OF_THE_RUN if key in merged}
        if "teacher_seeds" in of_the_run:
            if "teacher" not in of_the_run:
                raise ConfigError(f"{path}: teacher_seeds needs a teacher, the method of the runs that teach")
            of_the_run["teacher_seeds"] = tuple(of_the_run["teacher_seeds"])
        merged["method_settings"] = method_settings
        yield Run(data, model, method, seed, entry.get("recipe", "default"), merged, tune, own_tune, **of_the_run)


@dataclass(frozen=True)
class Trainer:
    """Does the runs of a study, and keeps the models that others learn from. models: where."""

    study: list[Run]
    results: Path
    data_root: Path | None
    models: Path
    say: Callable[[str], None]

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
        """Held by the one process that trains a run."""
        folder = self.models / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{run.name}.lock")

    def kept(self, run: Run) -> Path:
        """The folder of the trained model of a run, which is trained again where it was not kept."""
        folder, run = self.place(run), self.tuned(run)
        with self.lock(run):
            if not (folder.is_dir() and _has_rate(run, yaml.safe_load((folder / "config.yaml").read_text("utf-8")))):
                run = self.taught(run)
                self.say(f"training {run.name} for its weights")
                trained(run, run.config(self.data_root), self.unfinished(run), keep=folder)
        return folder

    def tuned(self, run: Run) -> Run:
        """The run with the learning rate that was best on validation with seed 0 and the default recipe of its method.

        An entry with a `tune` of its own chooses for its own recipe. Every trial leaves a JSON under `results/tuning/`;
        the test split is never looked at.
        """
        if not run.tune or "learning_rate" in run.settings:
            return run
        alike = [other for other in self.study if _cell(other) == _cell(run) and other.recipe == "default"]
        chosen = replace(run if run.own_tune or not alike else alike[0], seed=0)
        best: tuple[float, float] = (-1.0, 0.0)
        for factor in chosen.tune:
            prefix = f"{chosen.recipe}-" if chosen.own_tune else ""
            trial = replace(chosen, recipe=f"{prefix}rate-x{factor:g}")
            path = self.results / "tuning" / f"{trial.name}.json"
            with self.lock(trial):
                if not path.exists():
                    self._try(self.taught(trial), factor, path)
            stored = read_json(path)
            score = stored["validation"]["f1_weighted"]
            if score > best[0]:  # of equal ones the first factor stands
                best = (score, stored["hyperparameters"]["learning_rate"])
        return replace(run, settings=run.settings | {"learning_rate": best[1]})

    def _try(self, trial: Run, factor: float, path: Path) -> None:
        started = time.monotonic()
        config = replace(trial.config(self.data_root), learning_rate_factor=factor)
        outcome = outcome_of(trial, config, self.unfinished(trial))
        scores = validation_scores(trial, outcome)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, head(trial, outcome) | {"validation": scores, "seconds": round(time.monotonic() - started, 1)})
        self.say(f"tuning {trial.name}: validation {scores['f1_weighted']:.4f}")

    def finish(self, run: Run, keep_model: bool) -> None:
        """Run what has no result yet, or one of another learning rate than tuning chooses now."""
        path = _path(run, self.results)
        if path.exists() and not run.tune:
            return
        run = self.tuned(run)
        if path.exists() and _has_rate(run, read_json(path)["hyperparameters"]):
            return
        run = self.taught(run)
        self.say(f"{run.name} ...")
        keep = METHODS[run.method].adapt is not None and (keep_model or self.teaches(run))
        place = self.place(run) if keep else None
        record = perform(run, self.results, self.data_root, self.unfinished(run), keep=place)
        scores = [record[split]["f1_weighted"] for split in ("validation", "test")]
        self.say(f"{run.name}: validation {scores[0]:.4f}, test {scores[1]:.4f}, {record['seconds']:.0f} s")


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
    say: Callable[[str], None] = print,
) -> int:
    """Run what is wanted and has no result yet, in order; returns how many of these runs are still missing.

    budget: seconds; a run that would probably not end in time (by the longest one on the same data and model so far)
    is not started. A finished run is run again only when its grid was changed and now chooses another learning rate. A
    run whose weights are not at hand, whose method does not exist for its model, or that another process is at, is
    passed over. `results/declared/NAME.json` lists every run of the study, and for those without a result the reason.
    models: where trained teachers are kept, with `keep_models` every trained model, and where runs train: one that was
    killed goes on after its last epoch. Raises ConfigError when its settings were changed since.
    """
    started, chosen = time.monotonic(), [run for run in study if wanted(run)]
    trainer = Trainer(study, results, data_root, models, say)
    _declare(study, results, name)
    for run in chosen:
        finished = _path(run, results).exists()
        if finished:
            check_alike(run, read_json(_path(run, results))["hyperparameters"])
        if _refusal(run, results).exists() or (finished and not (run.tune and at_hand(run.model))):
            continue
        if not at_hand(run.model):
            say(f"{run.name}: {NOT_AT_HAND}")
            continue
        left = None if budget is None else budget - (time.monotonic() - started)
        if left is not None and left < max(60.0, _longest(results, run)):
            continue
        try:
            with trainer.lock(run).acquire(timeout=0):
                trainer.finish(run, keep_models)
        except Timeout:
            say(f"{run.name}: another process is at it")
        except NotSupportedError as refusal:
            _refusal(run, results).parent.mkdir(parents=True, exist_ok=True)
            write_json(_refusal(run, results), {"reason": str(refusal)})
            say(f"{run.name}: {NOT_SUPPORTED}: {refusal}")
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
    if _refusal(run, results).exists():
        return f"{NOT_SUPPORTED}: {read_json(_refusal(run, results))['reason']}"
    return PENDING if at_hand(run.model) else NOT_AT_HAND


def check_alike(run: Run, stored: dict[str, Any]) -> None:
    """Raises ConfigError when a stored run had other settings than are declared now; a tuned rate is not looked at."""
    wanted = run.config(None).to_dict()
    wanted["method_settings"] = run.settings["method_settings"]
    differing = [
        f"{key}: {stored[key]!r} in the result, {wanted[key]!r} in the study"
        for key in run.settings
        if key in stored and key != "learning_rate" and stored[key] != wanted[key]
    ]
    if differing:
        raise ConfigError(
            f"{run.name} has a result with other settings ({'; '.join(differing)}); give the changed run a `recipe` of "
            "its own, or remove its result"
        )


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


def _longest(results: Path, run: Run) -> float:
    """Seconds of the longest stored run on the same data and model; 0 when there is none."""
    seconds = [0.0]
    for path in (results / "runs").glob(f"{run.data}__{run.model.replace('/', '-')}__*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        seconds += [record["seconds"], record["cost"]["training_seconds"] or 0.0]  # longer, if the run went on
    return max(seconds)
