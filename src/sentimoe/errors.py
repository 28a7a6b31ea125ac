"""Every error that sentimoe raises on purpose. Each says what was given, what is allowed and how to fix it."""

from sentimoe_settings.errors import (
    ConfigError,
    ConversionError,
    DataError,
    DivergedError,
    ExitCode,
    LostProcessError,
    ModelFolderError,
    NotSupportedError,
    PredictionError,
    RejectedError,
    SentiMoEError,
    StoppedError,
    WeightsError,
)

__all__ = [
    "ConfigError",
    "ConversionError",
    "DataError",
    "DivergedError",
    "ExitCode",
    "LostProcessError",
    "ModelFolderError",
    "NotSupportedError",
    "PredictionError",
    "RejectedError",
    "SentiMoEError",
    "StoppedError",
    "WeightsError",
]
