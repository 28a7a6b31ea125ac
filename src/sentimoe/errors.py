"""Every error that sentimoe raises on purpose. Each says what was given, what is allowed and how to fix it."""


class SentiMoEError(Exception):
    """Base of all errors raised on purpose by sentimoe."""


class ConfigError(SentiMoEError, ValueError):
    """A setting is outside what is allowed."""


class NotSupportedError(ConfigError):
    """A method does not exist for this kind of model; no setting changes that."""


class DataError(SentiMoEError, ValueError):
    """A data set or file cannot be used as it is."""


class WeightsError(SentiMoEError, RuntimeError):
    """A checkpoint lacks weights that would otherwise be random."""


class ConversionError(SentiMoEError, ValueError):
    """A model cannot be upcycled or collapsed; the model is left as it was."""
