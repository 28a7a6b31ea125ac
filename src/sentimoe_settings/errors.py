"""Every error that sentimoe raises on purpose. Each says what was given, what is allowed and how to fix it."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the `sentimoe` command returns to the shell. The same table stands in docs/reliability.md."""

    DONE = 0
    BUG = 1  # an error that nobody foresaw; Python's traceback is shown
    USAGE = 2  # a wrong option, setting or data set
    REJECTED = 3  # more rows were rejected than allowed
    MODEL = 4  # a model folder that is damaged or not trusted
    DIVERGED = 5  # training whose loss or weights were no longer finite
    STOPPED = 75  # stopped early, by a signal or a full disk: the same command goes on
    INTERRUPTED = 130  # Ctrl-C


class SentiMoEError(Exception):
    """Base of all errors raised on purpose by sentimoe. `exit_code` is what the command line returns for it."""

    exit_code = ExitCode.USAGE


class ConfigError(SentiMoEError, ValueError):
    """A setting is outside what is allowed."""


class NotSupportedError(ConfigError):
    """A method does not exist for this kind of model; no setting changes that."""


class DataError(SentiMoEError, ValueError):
    """A data set or file cannot be used as it is."""


class RejectedError(SentiMoEError, ValueError):
    """More rows of a bulk job were rejected than allowed; what is finished stays."""

    exit_code = ExitCode.REJECTED


class ModelFolderError(SentiMoEError, RuntimeError):
    """A model folder is damaged, incomplete, or wants to run code of its own."""

    exit_code = ExitCode.MODEL


class WeightsError(ModelFolderError):
    """A checkpoint lacks weights that would otherwise be random, or holds weights that are not finite."""


class ConversionError(SentiMoEError, ValueError):
    """A model cannot be upcycled, collapsed or exported; the model is left as it was."""


class DivergedError(SentiMoEError, RuntimeError):
    """The loss or the weights of a training run are no longer finite; the step was not applied."""

    exit_code = ExitCode.DIVERGED


class StoppedError(SentiMoEError, RuntimeError):
    """Work was stopped before its end and saved; the same command goes on."""

    exit_code = ExitCode.STOPPED


class LostProcessError(StoppedError):
    """One of several processes that trained together is gone."""


class PredictionError(SentiMoEError, RuntimeError):
    """A model gave no finite answer for a text that has tokens."""

    exit_code = ExitCode.MODEL
