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

from sentimoe.config import read_yaml
from sentimoe.errors import ConfigError
from sentimoe_settings import check_settings

from .perform import Run


def read_study(path: Path) -> list[Run]:
    """The runs of a study file, in order. Raises ConfigError for what does not fit, before anything runs."""
    study = read_yaml(path, "study file", f"the parts {', '.join(PARTS)}")
    if set(study) != set(PARTS):
        raise ConfigError(f"{path} has the parts {sorted(study)}; it must have {', '.join(PARTS)}")
    parts = {kind: _mapping(study[kind], f"{path}: {kind}") for kind in PARTS[:-1]}
    entries = [_mapping(entry, f"{path}: a run") for entry in _list(study["runs"], f"{path}: runs")]
    runs = [run for entry in entries for run in _expand(entry, parts, path)]
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
            parts.append(_mapping(study[kind][name], f"{path}: {name}"))
        varied = {key: _mapping(entry.get(key), f"{path}: {key} of a run") for key in ("settings", "method_settings")}
        parts.append(varied["settings"] | {"method_settings": varied["method_settings"]})
        of_method = [_mapping(part.pop("method_settings", None), f"{path}: method_settings") for part in parts]
        method_settings = {key: value for part in of_method for key, value in part.items()}
        merged = {key: value for part in parts for key, value in part.items()}
        tune = tuple(_list(entry.get("tune", merged.pop("tune", [])), f"{path}: tune"))
        if wrong := [factor for factor in tune if not isinstance(factor, int | float) or factor <= 0]:
            raise ConfigError(f"{path}: tune holds {wrong}; give factors of the default learning rate, above 0")
        if tune and (fixed := {"learning_rate", "learning_rate_factor"} & set(merged)):
            raise ConfigError(
                f"{path}: {data}, {model}, {method} has a grid (tune) and {', '.join(sorted(fixed))}; leave one out, "
                "with tune: [] where the grid is that of the method"
            )
        own_tune = "tune" in entry and entry.get("recipe", "default") != "default"
        merged.pop("tune", None)
        of_the_run = {key: merged.pop(key) for key in OF_THE_RUN if key in merged}
        if "teacher_seeds" in of_the_run:
            if "teacher" not in of_the_run:
                raise ConfigError(f"{path}: teacher_seeds needs a teacher, the method of the runs that teach")
            of_the_run["teacher_seeds"] = tuple(_list(of_the_run["teacher_seeds"], f"{path}: teacher_seeds"))
        merged["method_settings"] = method_settings
        yield Run(data, model, method, seed, entry.get("recipe", "default"), merged, tune, own_tune, **of_the_run)


def _mapping(value: Any, what: str) -> dict[str, Any]:
    """A copy of what YAML read, {} where it was left empty. Raises ConfigError when it is something else."""
    if not isinstance(value, dict | None):
        raise ConfigError(f"{what} is {value!r}; it must hold names with values, such as 'epochs: 3'")
    return dict(value or {})


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list | None):
        raise ConfigError(f"{what} is {value!r}; it must be a list, such as [0, 1]")
    return list(value or [])
