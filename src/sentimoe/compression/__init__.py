"""Make a trained classifier faster and certify how often its answers differ from the original's."""

from .certificate import Certificate
from .compress import compress
from .drift import Drift, drift
from .search import Found, Search, default_levers
from .texts import Parts, divided
from .variants import Lever, Variant
from .words import certificate_lines

__all__ = [
    "Certificate",
    "Drift",
    "Found",
    "Lever",
    "Parts",
    "Search",
    "Variant",
    "certificate_lines",
    "compress",
    "default_levers",
    "divided",
    "drift",
]
