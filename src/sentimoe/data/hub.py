"""Data sets from the Hugging Face hub."""

import pandas as pd

from ..errors import DataError
from .dataset import SPLITS


def load_from_hub(name: str, hub_id: str, config: str | None = None) -> dict[str, pd.DataFrame]:
    """The train, validation and test splits that ``hub_id`` has; ``name`` is the preset, for the error message.

    Raises:
        DataError: the hub cannot be reached and the data set is not in the local cache. The cause is chained.
    """
    import datasets  # slow to import, and only this function needs it

    try:
        loaded = datasets.load_dataset(hub_id, config)
    except Exception as error:
        raise DataError(
            f'data set "{name}": {hub_id} could not be loaded from the hub ({type(error).__name__}: {error}); '
            f"with no network, give a local folder with its Parquet files: --data path/to/{name}"
        ) from error
    return {split: loaded[split].to_pandas() for split in SPLITS if split in loaded}
