"""One labelled file to be scored as it is: no split, every labelled row."""

from pathlib import Path

from .dataset import SentimentDataset, Split, content_hash
from .labels import label_order
from .reading import FOUND_OUT, FileFormat, read_table
from .rows import labelled_rows

WHOLE = "whole file"


def read_whole_file(
    path: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    file_format: FileFormat = FOUND_OUT,
    strict: bool = False,
) -> SentimentDataset:
    """Every row of a file that has a text and a label as the one split ``WHOLE``, whatever its labels are.

    Raises:
        ConfigError, DataError: as :func:`~sentimoe.data.reading.read_table` and
            :func:`~sentimoe.data.rows.labelled_rows`.
    """
    table = read_table(path, file_format)
    rows = labelled_rows(table.frame, table.origin, text_column, label_column, strict=strict)
    names = label_order(rows.labels)
    splits = {WHOLE: Split(rows.texts, [names.index(label) for label in rows.labels])}
    warnings = (rows.skipped,) if rows.skipped else ()
    return SentimentDataset(Path(path).stem, names, splits, content_hash(splits), warnings)
