"""One labelled file to be scored as it is: no split, every labelled row."""

from dataclasses import dataclass
from pathlib import Path

from .dataset import SentimentDataset, Split, content_hash
from .labels import label_order
from .reading import FOUND_OUT, FileFormat, read_table
from .rows import find_column, labelled_rows
from .text import is_missing

WHOLE = "whole file"


@dataclass(frozen=True)
class WholeFile:
    """dataset: the one split ``WHOLE``. numbers: of its rows in the file, from 1, without the header. rows: of the
    file. beside: another column of its rows as text, where one was asked for."""

    dataset: SentimentDataset
    numbers: list[int]
    rows: int
    beside: list[str] | None = None


def read_whole_file(
    path: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    file_format: FileFormat = FOUND_OUT,
    strict: bool = False,
    beside: str | None = None,
) -> WholeFile:
    """Every row of a file that has a text and a label, whatever its labels are. beside: another column to read.

    Raises:
        ConfigError, DataError: as :func:`~sentimoe.data.reading.read_table` and
            :func:`~sentimoe.data.rows.labelled_rows`; there is no such other column.
    """
    table = read_table(path, file_format)
    columns = (text_column, label_column)
    rows = labelled_rows(table.frame, table.origin, *columns, usual=file_format.columns, strict=strict)
    names = label_order(rows.labels)
    splits = {WHOLE: Split(rows.texts, [names.index(label) for label in rows.labels])}
    warnings = (rows.skipped,) if rows.skipped else ()
    dataset = SentimentDataset(Path(path).stem, names, splits, content_hash(splits), warnings)
    if beside is None:
        return WholeFile(dataset, rows.numbers, len(table.frame))
    column = find_column(table.frame, table.origin, beside, "by")
    values = ["" if is_missing(value) else str(value) for value in table.frame[column].tolist()]
    return WholeFile(dataset, rows.numbers, len(table.frame), [values[number - 1] for number in rows.numbers])
