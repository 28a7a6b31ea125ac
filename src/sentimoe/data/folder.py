"""A folder's files by split."""

from pathlib import Path

from ..errors import DataError
from .reading import FOUND_OUT, READERS, FileFormat, Table, kind_of, read_table

STEMS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


def read_folder(folder: Path, file_format: FileFormat = FOUND_OUT) -> dict[str, Table]:
    """The tables of train, validation and test, as far as there; every other file is left alone.

    Raises:
        DataError: no train file, two files for one split, or a file that :func:`read_table` refuses.
    """
    tables = {}
    readable = sorted(path for path in folder.iterdir() if kind_of(path) in READERS and path.is_file())
    for split, stems in STEMS.items():
        found = [path for path in readable if path.name.partition(".")[0] in stems]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise DataError(f"{folder}: several files for the {split} split ({names}); keep one")
        if found:
            tables[split] = read_table(found[0], file_format)
    if "train" not in tables:
        names = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        allowed = ", ".join(f"train{suffix}" for suffix in READERS)
        raise DataError(f"{folder}: no train file; the folder holds {names}. Add one of {allowed}")
    return tables
