"""Groups of words: by sentiment lexicon (VADER) and by part of speech (HanTa, which ships its English model)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec

import numpy as np
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

# emoticons first, then words with inner apostrophes, then single marks
WORD = re.compile(r"[:;=8][-o']?[)(\][dDpP/\\|]|\w+(?:['’]\w+)*|[^\w\s]")
LEXICON = ("negative", "neutral", "positive")
PARTS = ("noun", "verb", "adjective", "adverb", "pronoun", "determiner", "preposition", "conjunction", "negation",
         "number", "interjection", "punctuation", "other")  # fmt: skip
# the tags of the model are those of the British National Corpus (CLAWS 5), by their first letters
CLAWS5 = {"NN": "noun", "NP": "noun", "V": "verb", "AJ": "adjective", "AV": "adverb", "PN": "pronoun",
          "AT": "determiner", "DT": "determiner", "DPS": "determiner", "PR": "preposition", "CJ": "conjunction",
          "TO": "preposition", "XX": "negation", "CRD": "number", "ORD": "number", "ITJ": "interjection",
          "PU": "punctuation"}  # fmt: skip


def words_of(text: str) -> list[tuple[int, int]]:
    """Where the words and marks of a text are: (start, end) in characters."""
    return [found.span() for found in WORD.finditer(text)]


def lexicon_groups(words: Sequence[str]) -> list[int]:
    """For every word its place in `LEXICON`: the sign of its valence in VADER's lexicon, neutral when not in it."""
    valences = _valences()
    return [1 + int(np.sign(valences.get(word.lower(), 0.0))) for word in words]


def part_groups(words: Sequence[str]) -> list[int]:
    """For every word its place in `PARTS`. Needs HanTa (`has_tagger`)."""
    tags = (tag for _, _, tag in _tagger()(list(words))) if words else ()
    return [
        PARTS.index(next((part for start, part in CLAWS5.items() if tag.startswith(start)), "other")) for tag in tags
    ]


def has_tagger() -> bool:
    """Whether the tagger is installed: `pip install 'sentimoe[explain]'`."""
    return find_spec("HanTa") is not None


def spread(
    text: str, words: Sequence[tuple[int, int]], groups: Sequence[int], start: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """The group of each token `[T]`: that of the word in which it begins; -1 for special tokens and between words.

    A token may hold the blank before its word, as those of GPT-2 and Llama do.
    """
    found = np.full(len(start), -1)
    if not words:
        return found
    blank = [len(piece) - len(piece.lstrip()) for piece in (text[a:b] for a, b in zip(start, end, strict=True))]
    start = np.asarray(start) + np.array(blank, dtype=int)
    starts, ends = np.array(words).T
    place = np.searchsorted(starts, start, side="right") - 1
    inside = (place >= 0) & (start < ends[place]) & (end > start)
    found[inside] = np.asarray(groups)[place[inside]]
    return found


@cache
def _valences() -> dict[str, float]:
    return SentimentIntensityAnalyzer().lexicon


@cache
def _tagger() -> Callable[[list[str]], list[tuple[str, str, str]]]:
    from HanTa.HanoverTagger import HanoverTagger

    return HanoverTagger("morphmodel_en.pgz").tag_sent
