"""Bulk labelling: any number of rows, in parts that are finished once and for all."""

from .job import Job, Report, run
from .predictor import Predictor

__all__ = ["Job", "Predictor", "Report", "run"]
