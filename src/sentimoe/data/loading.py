"""The one entry to data: a preset's name, a folder or a file becomes a checked data set."""

import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ..errors import DataError
from .dataset import SPLITS, SentimentDataset, Split, content_hash
from .folder import read_folder
from .hub import is_hub_id, load_hub_id
from .labels import absence_warnings, alike_warnings, label_indices, name_labels
from .presets import PRESETS
from .reading import FOUND_OUT, READERS, FileFormat, Table, kind_of, read_table
from .repeats import repeat_warnings
from .rows import Rows, labelled_rows
from .splitting import normalise, split_off
from .text import values_of

TEST_FRACTION = 0.1


def load_dataset(
    source: str,
    *,
    more_train: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    validation_fraction: float = 0.1,
    file_format: FileFormat = FOUND_OUT,
    strict: bool = False,
) -> SentimentDataset:
    """Loads and checks ``source``, before anything is trained on it.

    Args:
        source: a name in ``PRESETS``; or a folder with a train and, if wanted, validation and test file; or one file,
            of which a tenth becomes test; or a hub id, ``owner/name`` or ``owner/name:config``. They are looked for in
            this order: write ``./imdb`` for a folder of that name. A folder named like a preset has that preset's
            label names.
        more_train: a file of more labelled rows, for train alone, such as phrases of its sentences, beside data with
            splits of its own. Rows whose text stands in a split already, case and whitespace aside, are left out; a
            warning tells how many.
        text_column: "text" unless given, or the only column of a well-known name.
        label_column: "label" likewise; strings or integers.
        validation_fraction: share in (0, 0.5] that validation gets where the source has none of its own. A hash of
            the normalised text decides which rows go there; every class stays in train, and is in validation too where
            it has two different texts.
        file_format: encoding and delimiter, where they are not to be found out.
        strict: refuse rows without a text or a label, which are counted and left out otherwise.

    Raises:
        DataError: anything that makes the source unfit to train on, with file, row and fix.
    """
    if not 0 < validation_fraction <= 0.5:
        raise DataError(
            f"validation_fraction is {validation_fraction}; give a share above 0 and up to 0.5, such as 0.1"
        )
    name, tables, preset_names = _find(source, label_column, file_format)

    def rows_of(table: Table) -> Rows:
        columns = (text_column, label_column)
        usual = file_format.columns
        return labelled_rows(table.frame, table.origin, *columns, usual=usual, strict=strict, untyped=table.untyped)

    rows = {split: rows_of(table) for split, table in tables.items()}
    more = None if more_train is None else rows_of(_more(more_train, file_format))
    return _checked(name, rows, preset_names, validation_fraction, more)


def dataset_from_texts(
    texts: Iterable[str],
    labels: Iterable[str | int],
    *,
    validation_fraction: float = 0.1,
) -> SentimentDataset:
    """The same for texts and labels in memory: train, and a validation split carved from them.

    Raises:
        ConfigError: as `values_of`.
        DataError: as `load_dataset`; also when there are more texts than labels, or fewer.
    """
    texts, labels = list(values_of(texts, "texts")), list(values_of(labels, "labels"))
    if len(texts) != len(labels):
        raise DataError(f"{len(texts)} texts but {len(labels)} labels; give one label for each text")
    frame = pd.DataFrame({"text": pd.Series(texts, dtype=object), "label": pd.Series(labels, dtype=object)})
    rows = {"train": labelled_rows(frame, "the given texts", None, None)}
    return _checked("texts", rows, None, validation_fraction, None, stratified=True)


def _checked(
    name: str,
    rows: dict[str, Rows],
    preset_names: tuple[str, ...] | None,
    validation_fraction: float,
    more: Rows | None,
    stratified: bool = False,
) -> SentimentDataset:
    """Carve the missing splits, index the labels, add what is for train alone, count what repeats."""
    if more is not None and "validation" not in rows:
        raise DataError(
            f"more_train needs data with a validation file of its own: {more.origin} may hold parts of rows that "
            "would be taken from train. Give a folder with train, validation and test"
        )
    if "whole" in rows:
        stratified = True
        rows["train"], rows["test"] = split_off(
            rows.pop("whole"), "test", 1 - TEST_FRACTION, 1, keep=2, stratified=True
        )
        validation_fraction /= 1 - TEST_FRACTION  # of what is left, it is that share of all
    if "validation" not in rows:
        rows["train"], rows["validation"] = split_off(
            rows["train"], "validation", 0, validation_fraction, stratified=stratified
        )

    label_names, index = name_labels(rows["train"], preset_names)
    splits = {split: Split(rows[split].texts, label_indices(rows[split], index)) for split in SPLITS if split in rows}
    warnings = alike_warnings(label_names) + tuple(
        dict.fromkeys(each.skipped for each in rows.values() if each.skipped)
    )
    warnings += tuple(
        dict.fromkeys(_offer(each) for each in rows.values() if each.unlabelled and os.path.isfile(each.origin))
    )
    if more is not None:
        known = {normalise(text) for split in splits.values() for text in split.texts}
        added = more.take(i for i, text in enumerate(more.texts) if normalise(text) not in known)
        train = splits["train"]
        splits["train"] = Split(train.texts + added.texts, train.labels + label_indices(added, index))
        left_out = len(more) - len(added)
        warnings += (f"{left_out} of {len(more)} rows of {more.origin} stand in the data set; left out.",)
    warnings += absence_warnings(label_names, splits) + repeat_warnings(splits)
    label_type = "int" if rows["train"].integers and label_names != preset_names else "str"
    return SentimentDataset(name, label_names, splits, content_hash(splits), warnings, label_type)


def _offer(rows: Rows) -> str:
    return (
        f"rows of {rows.origin} that have a text and no label are of use once a model is trained: another one learns "
        f"from its answers to them with --teacher RUN --unlabelled {rows.origin}"
    )


def _more(source: str, file_format: FileFormat) -> Table:
    path = Path(os.path.expanduser(source))
    if not path.is_file():
        raise DataError(f'more_train "{source}" not found; give a file ({", ".join(READERS)})')
    return read_table(path, file_format)


def _find(
    source: str, label_column: str | None, file_format: FileFormat
) -> tuple[str, dict[str, Table], tuple[str, ...] | None]:
    """(name, tables by split, label names if known); a single file is the split "whole"."""
    if source in PRESETS:
        tables = {split: Table(f"{source} ({split})", frame) for split, frame in PRESETS[source].load().items()}
        return source, tables, PRESETS[source].label_names
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        name = path.absolute().name
        return name, read_folder(path, file_format), PRESETS[name].label_names if name in PRESETS else None
    if path.is_file():
        return path.stem, {"whole": read_table(path, file_format)}, None
    if is_hub_id(source) and kind_of(path) not in READERS:
        name, frames, label_names = load_hub_id(source, label_column)
        return name, {split: Table(f"{source} ({split})", frame) for split, frame in frames.items()}, label_names
    raise DataError(
        f'data "{source}" not found; give a preset ({", ".join(PRESETS)}), a folder with train{"/".join(READERS)}, '
        f"one file ({', '.join(READERS)}), or a hub id (owner/name)"
    )
