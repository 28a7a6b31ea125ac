"""One labelled file to be scored as it is: no split, every row."""

from pathlib import Path

from .dataset import SentimentDataset, Split, content_hash
from .labels import label_order
from .reading import read_table
from .rows import labelled_rows

WHOLE = "whole file"


def read_whole_file(
    path: str | Path, *, text_column: str | None = None, label_column: str | None = None
) -> SentimentDataset:
    """Every row of a file as the one split ``WHOLE``, blank texts too, whatever its labels are.

    Raises:
        DataError: as :func:`~sentimoe.data.reading.read_table`; a column is missing; a text is no string; a label is
            missing or neither string nor integer.
    """
    table = read_table(path)
    rows = labelled_rows(table.frame, table.origin, text_column, label_column, blank=True)
    names = label_order(rows.labels)
    splits = {WHOLE: Split(rows.texts, [names.index(label) for label in rows.labels])}
    blank = sum(not text.strip() for text in rows.texts)
    warnings = (f"{blank} of {len(rows)} texts are blank: they have no answer and count as wrong.",) if blank else ()
    return SentimentDataset(Path(path).stem, names, splits, content_hash(splits), warnings)
