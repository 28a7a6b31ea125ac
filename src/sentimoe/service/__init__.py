"""`sentimoe serve`: classifiers over HTTP, in the words of other programs' clients."""

from .app import create_service
from .batcher import Answers, Batcher
from .models import ServedModel, load_served
from .refusals import Kind, Refusal
from .server import server_settings

__all__ = ["Answers", "Batcher", "Kind", "Refusal", "ServedModel", "create_service", "load_served", "server_settings"]
