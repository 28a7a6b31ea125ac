"""Which texts a model has seen: eight bytes for each, kept in its folder.

Legend: B texts, N seen texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFolderError
from ..model_folder import SEEN
from .splitting import normalise

MORE = np.uint64(0)  # stands among the hashes for texts that nobody knows


@dataclass(frozen=True)
class SeenTexts:
    """The texts that training, the choice of the epoch or the temperature of a model saw.

    hashes: [N] uint64, sorted, each once, of the texts without differences of case and whitespace; 0 where the model
    saw more texts, such as those that the classifier was trained on from which its training started.
    """

    hashes: NDArray[np.uint64]

    @classmethod
    def of(cls, texts: Iterable[str]) -> SeenTexts:
        """These texts."""
        return cls(np.unique(_hashes(texts)))

    @property
    def complete(self) -> bool:
        """Whether these are all that the model saw."""
        return MORE not in self.hashes

    def and_more(self) -> SeenTexts:
        """These, and others that nobody knows."""
        return SeenTexts(np.union1d(self.hashes, [MORE]))

    def mask(self, texts: Iterable[str]) -> NDArray[np.bool_]:
        """Which of B texts are among them, [B]."""
        return np.isin(_hashes(texts), self.hashes)

    def __or__(self, other: SeenTexts | None) -> SeenTexts:
        """These and the others."""
        return self if other is None else SeenTexts(np.union1d(self.hashes, other.hashes))

    def save(self, folder: Path) -> None:
        """Write them into a model folder that is being saved."""
        np.save(folder / SEEN, self.hashes, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> SeenTexts | None:
        """Those of a model folder; None where it keeps no list. Raises ModelFolderError when the list is damaged."""
        path = folder / SEEN
        if not path.exists():
            return None
        try:
            hashes = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise ModelFolderError(f"{path} cannot be read ({error}); copy the folder again") from error
        if hashes.dtype != np.uint64 or hashes.ndim != 1:
            raise ModelFolderError(f"{path} is no list of hashes; copy the folder again")
        return cls(hashes)


def _hashes(texts: Iterable[str]) -> NDArray[np.uint64]:
    digests = [hashlib.blake2b(normalise(text).encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)
