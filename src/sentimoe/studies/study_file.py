"""A study file: YAML that lists runs.

The file has four parts. `data`, `models` and `methods` hold the settings of each name (fields of `TrainConfig`, and
`tune`: factors of the default learning rate to choose from on validation, with seed 0). `runs` lists what to run:
`data`, `model`, `method` and `seed` may be lists and stand for all combinations; `recipe` names a variation, `settings`
and `method_settings` say what varies. The setting `teacher` names a method: its default run of the same data, model and
seed teaches, and is trained first where its weights are not kept yet; `teacher_seeds` are those of several teachers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from ..config import read_yaml
from ..errors import ConfigError
from ..methods import check_settings
from .perform import Run


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
