"""What became of the rows of a job."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .predictor import REJECTED

PLACES = 10  # of rejected rows that are shown


@dataclass
class Report:
    """What became of the rows: `rows` is the sum of `scored`, `blank`, `doubtful` and `rejected`.

    reasons: how often each. places: of the first rejected rows, counted from 1 over all inputs. resumed: rows that were
    finished before. layers: how many texts were read by how many layers, where that differs. truncated: texts whose end
    was not read. halved: how often memory ran out, so that a batch was read in halves. replaced: in how many cells of
    each other column U+FFFD stands for bytes that are no character, in the whole input.
    """

    rows: int = 0
    scored: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    places: list[str] = field(default_factory=list)
    resumed: int = 0
    layers: Counter[int] = field(default_factory=Counter)
    truncated: int = 0
    halved: int = 0
    replaced: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def rejected(self) -> int:
        """Rows that could not be read."""
        return sum(self.reasons[reason] for reason in REJECTED)

    def add(self, part: dict[str, Any]) -> None:
        """Count a part, as the journal has it."""
        self.rows += part["rows"]
        self.scored += part["scored"]
        self.reasons += Counter(part["reasons"])
        self.places += part["places"][: PLACES - len(self.places)]
        self.truncated += part["truncated"]
        self.halved += part["halved"]
        self.layers += Counter({int(layers): count for layers, count in part["layers"].items()})
