"""Data sets from the Hugging Face hub."""

import re
from typing import Any

import pandas as pd

from ..errors import DataError
from .dataset import SPLITS
from .rows import find_column
from .text import listed, one_line

_HUB_ID = re.compile(r"(?P<id>\w[\w.-]*/(?P<name>\w[\w.-]*))(:(?P<config>\w[\w.-]*))?")


def is_hub_id(source: str) -> bool:
    """Whether ``source`` is written like ``owner/name`` or ``owner/name:config``."""
    return _HUB_ID.fullmatch(source) is not None


def load_hub_id(
    source: str, label_column: str | None = None
) -> tuple[str, dict[str, pd.DataFrame], tuple[str, ...] | None]:
    """(name, frames by split, label names if stored) of ``owner/name`` or ``owner/name:config``.

    Labels stored as class indices become their names, and -1, which stands for none, is missing. A split in which all
    labels are missing, as that of a competition, is left out.

    Raises:
        DataError: as :func:`load_from_hub`, or there is no such label column.
    """
    found = _HUB_ID.fullmatch(source)
    assert found is not None, source
    loaded = _load(found["name"], found["id"], found["config"])
    frames = _frames(loaded)
    column = find_column(frames["train"], f"{source} (train)", label_column, "label")
    label_names = getattr(loaded["train"].features[column], "names", None)
    if label_names is None:
        return found["name"], frames, None
    for frame in frames.values():
        frame[column] = frame[column].astype(object).map(dict(enumerate(label_names)))
    labelled = {split: frame for split, frame in frames.items() if frame[column].notna().any()}
    return found["name"], labelled, tuple(label_names)


def load_from_hub(name: str, hub_id: str, config: str | None = None) -> dict[str, pd.DataFrame]:
    """The train, validation and test splits that ``hub_id`` has; ``name`` is the preset, for the error message.

    Raises:
        DataError: no such data set, no train split, or the hub cannot be reached and the data set is not in the local
            cache. The cause is chained.
    """
    return _frames(_load(name, hub_id, config))


def _load(name: str, hub_id: str, config: str | None) -> Any:
    import datasets  # slow to import, and only this function needs it

    try:
        loaded = datasets.load_dataset(hub_id, config)
    except Exception as error:
        raise DataError(
            f'data set "{name}": {hub_id} could not be loaded from the hub ({type(error).__name__}: '
            f"{one_line(error)}); check the id, and name one of several configurations as {hub_id}:config; with no "
            f"network, give a local folder with its Parquet files: --data path/to/{name}"
        ) from error
    if "train" not in loaded:
        raise DataError(f"{hub_id} has no train split; it has {listed(list(loaded))}. Give another data set")
    return loaded


def _frames(loaded: Any) -> dict[str, pd.DataFrame]:
    # Arrow types keep integers with gaps integers
    return {
        split: loaded[split].with_format("arrow")[:].to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
        for split in SPLITS
        if split in loaded
    }
