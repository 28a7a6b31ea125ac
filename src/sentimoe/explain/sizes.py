"""How many texts each measure of a report looks at."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..data import Split, clean_text
from ..inference import Engine

SHORT = 30  # tokens of a text, of which a first page reads as many as `FIRST` says
FIRST_TEXTS = 500
LEAST = {"shown": 3, "answered": 100, "knocked_out": 50, "projected": 100, "written": 40, "compared": 40, "tagged": 40}


@dataclass(frozen=True)
class Sizes:
    """Texts of each measure, chosen at random with seed 0; routing is traced for all of them.

    shown: texts shown one by one (100 at most), two thirds of them errors and doubtful ones, see `choose`. answered:
    for whether the experts help. routers: drawn at random in their place. permutations: shuffles of the labels.
    """

    shown: int = 40
    answered: int = 1000
    routers: int = 3
    knocked_out: int = 1000
    projected: int = 800
    written: int = 200
    compared: int = 256
    tagged: int = 2000
    permutations: int = 1000


FULL = Sizes()
FIRST = Sizes(shown=8, answered=500, routers=1, knocked_out=150, projected=300, written=100, compared=100, tagged=300)


def first_page(engine: Engine, part: Split) -> tuple[int, Sizes]:
    """How many texts to trace for a first page in about a minute, and its samples: fewer of long texts."""
    texts = [clean_text(text) for text in part.sample(200).texts]
    encoded = engine.tokenizer(texts, truncation=True, max_length=engine.max_length)["input_ids"]
    share = min(1.0, SHORT * len(texts) / max(1, sum(map(len, encoded))))
    scaled = {name: max(least, round(share * getattr(FIRST, name))) for name, least in LEAST.items()}
    kept = {each.name: getattr(FIRST, each.name) for each in fields(FIRST)}
    return max(100, round(share * FIRST_TEXTS)), Sizes(**kept | scaled)
