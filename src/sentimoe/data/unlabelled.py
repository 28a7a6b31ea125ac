"""Texts without labels, to learn on from a teacher."""

from pathlib import Path

from ..errors import DataError
from .dataset import SentimentDataset
from .loading import load_dataset
from .presets import PRESETS
from .reading import FOUND_OUT, FileFormat, read_texts
from .splitting import normalise


def load_unlabelled(
    source: str, beside: SentimentDataset, text_column: str | None = None, file_format: FileFormat = FOUND_OUT
) -> list[str]:
    """The texts of ``source``, each once; neither blank ones nor those of any split of ``beside``, scored or not.

    source: a preset (its train texts) or a file with a text column. Raises DataError.
    """
    if source in PRESETS:
        texts = load_dataset(source).splits["train"].texts
    else:
        _, texts = read_texts(Path(source), text_column, file_format)
        if not texts:
            raise DataError(f"{source}: the file is empty (no data rows); give a file with at least one row")
    seen = {normalise(text) for split in beside.splits.values() for text in split.texts}
    seen |= set(map(normalise, beside.unscored))
    found = []
    for text in texts:
        key = normalise(text)
        if key and key not in seen:
            seen.add(key)
            found.append(text)
    return found
