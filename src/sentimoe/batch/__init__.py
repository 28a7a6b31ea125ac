"""Bulk labelling: any number of rows, in parts that are finished once and for all."""

from .cluster import Cluster
from .job import Job, run
from .predictor import Predictor
from .report import Report

__all__ = ["Cluster", "Job", "Predictor", "Report", "run"]
