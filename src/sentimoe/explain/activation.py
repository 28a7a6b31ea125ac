"""What the experts read, counted over a data set: by class, token, text, lexicon group and part of speech (Figure 4).

All counts are of mass: a token is 1, shared among its experts by their weights. N layers, E experts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .trace import Trace
from .words import LEXICON, PARTS, lexicon_groups, part_groups, spread, words_of


class Activation:
    """Filled trace by trace; memory grows by `N * E` numbers a text.

    num_experts: E. vocabulary: V. tagged: rows of the texts whose parts of speech are tagged (the tagger is slow).

    by_token `[V, N, E]`, tokens `[V]`: mass and count of each token. by_text `[B, N, E]`, lengths `[B]`: of each text.
    by_lexicon `[3, N, E]`, by_part `[13, N, E]`: mass of the tokens of words of each group.
    """

    def __init__(self, num_layers: int, num_experts: int, vocabulary: int, tagged: Iterable[int] = ()):
        self.num_experts, self.tagged = num_experts, frozenset(tagged)
        self.by_token = np.zeros((vocabulary, num_layers, num_experts), dtype=np.float64)
        self.tokens = np.zeros(vocabulary, dtype=np.int64)
        self.by_lexicon = np.zeros((len(LEXICON), num_layers, num_experts))
        self.by_part = np.zeros((len(PARTS), num_layers, num_experts))
        self._by_text: list[np.ndarray] = []
        self._lengths: list[int] = []

    @property
    def by_text(self) -> np.ndarray:
        """Mass of each text, `[B, N, E]`; a blank text has none."""
        return np.stack(self._by_text) if self._by_text else np.zeros((0, *self.by_token.shape[1:]))

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens of each text, `[B]`."""
        return np.array(self._lengths, dtype=int)

    def add(self, part: Trace) -> None:
        """Count one trace."""
        mass = part.mass(self.num_experts)
        np.add.at(self.by_token, part.token_id, mass)
        self.tokens += np.bincount(part.token_id, minlength=len(self.tokens))
        rows = part.text - part.first
        ends = np.searchsorted(rows, np.arange(len(part.texts) + 1))
        for row, text in enumerate(part.texts):
            tokens = slice(ends[row], ends[row + 1])
            self._by_text.append(mass[tokens].sum(axis=0, dtype=np.float64).astype(np.float32))
            self._lengths.append(int(ends[row + 1] - ends[row]))
            self._add_words(text, mass[tokens], part.start[tokens], part.end[tokens], part.first + row in self.tagged)

    def _add_words(self, text: str, mass: np.ndarray, start: np.ndarray, end: np.ndarray, tagged: bool) -> None:
        spans = words_of(text)
        words = [text[a:b] for a, b in spans]
        counted = [(self.by_lexicon, lexicon_groups(words))] + ([(self.by_part, part_groups(words))] if tagged else [])
        for total, groups in counted:
            group = spread(text, spans, groups, start, end)
            np.add.at(total, group[group >= 0], mass[group >= 0])


def shares(mass: np.ndarray) -> np.ndarray:
    """Mass `[G, N, E]` -> of each group's mass, the share that each expert read: rows of each layer sum to 1.

    A group without mass has NaN.
    """
    total = mass.sum(axis=-1, keepdims=True)
    return np.divide(mass, total, out=np.full_like(mass, np.nan, dtype=float), where=total > 0)


def by_class(by_text: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Mass of the texts of each class, `[C, N, E]`."""
    total = np.zeros((num_classes, *by_text.shape[1:]))
    np.add.at(total, labels, by_text)
    return total


def entropy(load: np.ndarray) -> np.ndarray:
    """Entropy in bits of loads `[..., E]` that sum to 1; log2(E) when the experts are used evenly."""
    safe = np.where(load > 0, load, 1.0)
    return -(safe * np.log2(safe)).sum(axis=-1)


def top_tokens(
    activation: Activation, names: Sequence[str], layer: int, expert: int, count: int = 12, support: int = 20
) -> list[dict[str, Any]]:
    """The tokens an expert answers to most, by lift: its share of the token's mass over its share of all mass.

    Only tokens that occur `support` times or more: a rare token's lift is chance.
    """
    mass = activation.by_token[:, layer]
    overall = mass[:, expert].sum() / max(mass.sum(), 1e-12)
    able = np.flatnonzero(activation.tokens >= support)
    share = mass[able, expert] / activation.tokens[able]
    order = np.argsort(-share, kind="stable")[:count]
    return [
        {
            "token": names[able[place]],
            "count": int(activation.tokens[able[place]]),
            "share": float(share[place]),
            "lift": float(share[place] / max(overall, 1e-12)),
        }
        for place in order
    ]


def top_texts(
    activation: Activation, layer: int, expert: int, count: int = 3, support: int = 5
) -> list[dict[str, Any]]:
    """Rows of the texts of which an expert read the largest share, among texts of `support` tokens or more."""
    able = np.flatnonzero(activation.lengths >= support)
    share = activation.by_text[able][:, layer, expert] / activation.lengths[able]
    overall = activation.by_text[:, layer, expert].sum() / max(activation.lengths.sum(), 1)
    order = np.argsort(-share, kind="stable")[:count]
    return [
        {"row": int(able[place]), "share": float(share[place]), "lift": float(share[place] / max(overall, 1e-12))}
        for place in order
    ]
