"""Finds the row that ends the process which reads it, as a fault in native code or a lack of memory does.

A part is first answered as a whole. If the process dies, the next one reads the part in pieces and says before each
which one comes; the piece at which that one dies is read row by row. A row on which three processes died is rejected.
A death counts for the piece that was being read alone, so that processes killed for other reasons cost no row. Deaths
before a part is unpacked, or after it is read, are of no row; three of them end the job.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

PIECES = 128  # of a part whose process died: 128 * 128 rows are a part
DEATHS = 3


class Piece(NamedTuple):
    """The rows from `start` to `stop`, without `stop`. rejected: they are not to be read again."""

    start: int
    stop: int
    rejected: bool = False


def pieces(rows: int, deaths: Sequence[Piece]) -> list[Piece]:
    """How to read a part. deaths: the pieces at which processes died, in order."""
    found = [Piece(0, rows)]
    for number, death in enumerate(deaths, 1):
        place = found.index(death)
        step = math.ceil((death.stop - death.start) / PIECES)
        starts = range(death.start, death.stop, step)
        found[place : place + 1] = [Piece(start, min(start + step, death.stop)) for start in starts]
        if death.stop - death.start == 1:
            before = sum(other.start <= death.start < other.stop for other in deaths[:number])
            found[place] = death._replace(rejected=before >= DEATHS)
    return found


class Begun(NamedTuple):
    """What is known of a part that somebody begins: the pieces at which processes died, and deaths at none."""

    deaths: list[Piece]
    elsewhere: int


class Attempts:
    """What is being read of each part, at which pieces its processes died, and what they have to say.

    It lives where none of them does.
    """

    def __init__(self) -> None:
        self._reading: dict[int, Piece | None] = {}
        self._deaths: dict[int, list[Piece]] = {}
        self._elsewhere: Counter[int] = Counter()
        self._notes: set[str] = set()

    def begin(self, part: int) -> Begun:
        """The deaths of a part that somebody begins. Who began it before, and has not ended it, is dead."""
        deaths = self._deaths.setdefault(part, [])
        if part in self._reading:
            if (piece := self._reading[part]) is None:
                self._elsewhere[part] += 1
            else:
                deaths.append(piece)
        self._reading[part] = None
        return Begun(deaths, self._elsewhere[part])

    def reading(self, part: int, piece: Piece | None) -> None:
        """Enter which piece of a part comes next; None: no row is read."""
        self._reading[part] = piece

    def end(self, part: int) -> None:
        """Forget a part that is answered."""
        self._reading.pop(part, None)
        self._deaths.pop(part, None)
        del self._elsewhere[part]

    def note(self, text: str) -> None:
        """Keep what the one who started the job is to be told."""
        self._notes.add(text)

    def notes(self) -> list[str]:
        """All of them, each once."""
        return sorted(self._notes)
