"""Every setting that a user gives: its type, range, default and help text stand here, and nowhere else.

Python, YAML files, the command line and its help are made from these classes. The package imports pydantic and yaml,
never torch, so the command line refuses a wrong setting at once.
"""

from .base import Settings, check_whole, read_yaml
from .errors import ConfigError
from .methods import (
    METHOD_SETTINGS,
    LoraSettings,
    PTuningSettings,
    ZeroShotSettings,
    check_settings,
    check_trains,
    complete_settings,
    method_fields,
)
from .moe import FFNLayout, MoEConfig
from .serve import ServeConfig
from .train import PRECISIONS, WITHOUT_EFFECT, TrainConfig

__all__ = [
    "METHOD_SETTINGS",
    "PRECISIONS",
    "WITHOUT_EFFECT",
    "ConfigError",
    "FFNLayout",
    "LoraSettings",
    "MoEConfig",
    "PTuningSettings",
    "ServeConfig",
    "Settings",
    "TrainConfig",
    "ZeroShotSettings",
    "check_settings",
    "check_trains",
    "check_whole",
    "complete_settings",
    "method_fields",
    "read_yaml",
]
