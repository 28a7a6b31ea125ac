"""Files of any size as tables of some rows at a time: what `read_table` gives, in constant memory.

A file is looked at once before (`inspected`): its hash, encoding and columns. What cannot be read at all is refused
there, before any work. Single undecodable characters are not: the rows that hold them are read, and marked.
"""

from __future__ import annotations

import gzip
import io
import logging
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError
from ..manifest import sha256
from .characters import BLOCK, UNDECODABLE, Trimmed, characters, encoding_of, is_marked, unpacked
from .decoding import GZIP, ZSTD
from .delimited import check_delimiter, find_delimiter, named_columns, without_separator_line
from .reading import FileFormat, distinct, kind_of, parsed_line, read_table, unreadable
from .text import one_line

HEAD = 1 << 20
ROWS_CHECKED, ROWS_AT_ONCE = 1024, 256
MOST_AT_ONCE = 64_000_000  # characters of the rows that are checked at once, as far as the first megabyte tells
LONGEST_LINE = 256_000_000  # characters
MOST_BETWEEN = 1_000_000_000  # characters in so many rows as are read at once; they must fit in memory
# what is read ahead of a file would be kept to its end
PARQUET: dict[str, Any] = {"page_checksum_verification": True, "pre_buffer": False, "buffer_size": 1 << 20}
STREAMED = (".csv", ".tsv", ".jsonl", ".parquet")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A file that was looked at. sha256: of its bytes as they are. names: of its columns, as they stand there. rows: T.

    undecodable: in how many cells of each column some bytes are no character. schema: that Parquet is read in; absent:
    the columns of it that the file lacks; mixed: those that hold integers in one file of a job and floats in another.
    """

    path: Path
    kind: str
    size: int
    changed: int  # when, in nanoseconds
    sha256: str
    names: tuple[str, ...]
    rows: int = 0
    encoding: str = ""
    delimiter: str = ""
    undecodable: Counter[str] = field(default_factory=Counter)
    schema: pa.Schema | None = None
    absent: frozenset[str] = frozenset()
    mixed: frozenset[str] = frozenset()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names, each once."""
        return tuple(distinct(list(self.names)))

    def check_unchanged(self) -> None:
        """Raises DataError where the file has been written to since it was looked at."""
        with reads(self.path):
            now = self.path.stat()
        if (now.st_size, now.st_mtime_ns) != (self.size, self.changed):
            raise DataError(
                f"{self.path} was changed while it was read. What is finished is of the version before: put that back "
                "and give the same command again, or begin anew with --overwrite"
            )


def inspected(path: Path, file_format: FileFormat) -> Source:
    """Look at a file once, in constant memory.

    Raises:
        ConfigError: an encoding or delimiter that does not exist.
        DataError: the file cannot be read, as `read_table` says it, or has no columns.
    """
    kind = kind_of(path)
    if kind in STREAMED and not path.is_file():
        raise DataError(f"{path}: no such file, or no regular one (files are read twice); check the path")
    if kind not in STREAMED:
        with reads(path):
            before = _state(path)
            frame = read_table(path, file_format).frame
            names = tuple(map(str, frame.columns))
            encoding, delimiter = file_format.encoding or "", file_format.delimiter or ""
            return Source(path, kind, *before, sha256(path), names, len(frame), encoding, delimiter)
    with reads(path):
        found = Source(path, kind, *_state(path), sha256(path), ())
        if kind == ".parquet":
            with _parquet(path) as file:
                schema = pa.schema([each.with_type(_without_views(each.type)) for each in file.schema_arrow])
                for batch in file.iter_batches(ROWS_AT_ONCE):  # damage shows before any work
                    batch.validate(full=True)
                return replace(found, names=tuple(schema.names), schema=schema, rows=file.metadata.num_rows)
        found = replace(found, encoding=encoding_of(path, file_format.encoding))
        if kind == ".jsonl":
            known: dict[str, None] = {}
            count = 0
            for record in _records(path, found.encoding):
                count += 1
                known |= dict.fromkeys(record)
                found.undecodable.update(name for name, value in record.items() if is_marked(value))
            return replace(found, names=tuple(known), rows=count)
        with characters(path, found.encoding) as text:
            head = text.read(HEAD)
        told = "\t" if kind == ".tsv" and file_format.delimiter is None else file_format.delimiter
        found = replace(found, delimiter=_delimiter(head, told))
        if told is None and found.delimiter != ",":
            logger.warning("%s: columns are separated by %r", path, found.delimiter)
        columns: list[str] = []
        count = 0
        rows = max(1, min(ROWS_CHECKED, MOST_AT_ONCE * (head.count("\n") + 1) // (len(head) + 1)))
        for frame in _delimited(found, rows):  # to the end: a malformed row shows before any work
            columns, count = list(frame.columns), count + len(frame)
            for name, (_, cells) in zip(distinct(columns), frame.items(), strict=True):
                if marked := int(cells.str.contains(UNDECODABLE, regex=False).sum()):
                    found.undecodable[name] += marked
        return replace(found, names=tuple(columns), rows=count)


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change; asked before the file is read, so that a change meanwhile is noticed."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def without_rows(source: Source) -> pd.DataFrame:
    """The table of no rows, with the types that are known."""
    if source.schema is None:
        return pd.DataFrame(columns=list(source.columns), dtype=object)
    frame = source.schema.empty_table().to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    frame.columns = pd.Index(source.columns, dtype=object)
    return frame


def frames(source: Source, rows: int) -> Iterator[pd.DataFrame]:
    """The rows of a file, in order, at most `rows` at a time, under the columns of the source.

    Raises DataError where the file is damaged or malformed further on.
    """
    with reads(source.path):
        for frame in _frames(source, rows):
            frame.columns = pd.Index(source.columns, dtype=object)
            yield frame


def _frames(source: Source, rows: int) -> Iterator[pd.DataFrame]:
    if source.kind in (".csv", ".tsv"):
        yield from _delimited(source, rows)
    elif source.kind == ".jsonl":
        records: list[dict[str, Any]] = []
        for record in _records(source.path, source.encoding):
            records.append(record)
            if len(records) == rows:
                yield _frame(records, source)
                records = []
        if records:
            yield _frame(records, source)
    elif source.kind == ".parquet":
        with _parquet(source.path) as file:
            for batch in file.iter_batches(rows):
                batch.validate(full=True)
                table = _under(source.schema, pa.Table.from_batches([batch]))
                yield table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    else:
        frame = read_table(source.path, FileFormat(source.encoding or None, source.delimiter or None)).frame
        for start in range(0, len(frame), rows):
            yield frame.iloc[start : start + rows].reset_index(drop=True)


def _without_views(kind: pa.DataType) -> pa.DataType:
    """The type with strings and bytes in place of views of them, which pandas cannot work with."""
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return pa.struct([each.with_type(_without_views(each.type)) for each in fields])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_without_views(kind.value_type)))
    return kind


def _under(schema: pa.Schema | None, table: pa.Table) -> pa.Table:
    """A table in the schema of all files: wider types, and nulls for columns that it lacks."""
    if schema is None or table.schema.equals(schema):
        return table
    if table.schema.names == schema.names:
        return table.cast(schema)
    own = set(table.schema.names)
    columns = [table[f.name] if f.name in own else pa.nulls(len(table), f.type) for f in schema]
    return pa.table(dict(zip(schema.names, columns, strict=True))).cast(schema)


def _frame(records: list[dict[str, Any]], source: Source) -> pd.DataFrame:
    return pd.DataFrame(records, columns=pd.Index(source.columns, dtype=object), dtype=object)


@contextmanager
def reads(path: Path) -> Iterator[None]:
    """Around what reads a file or lists a folder. Raises DataError where that fails, StoppedError where it may pass."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the compressed file is damaged or cut short ({error}); copy it again") from error
    except pa.ArrowException as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)}); write it again") from error
    except OSError as error:
        if error.errno is None:  # of Arrow, which unpacks zstd
            raise DataError(f"{path}: the compressed file is damaged or cut short ({error}); copy it again") from error
        raise unreadable(path, error) from error


def _delimiter(head: str, told: str | None) -> str:
    """As it is named, or found in the first megabyte."""
    check_delimiter(told)
    named, rest = without_separator_line(head)
    return told or named or find_delimiter(rest)


class _Bounded(io.TextIOBase):
    """Passes characters on. Raises DataError where a few rows have so many that a quote must be left open."""

    def __init__(self, stream: Trimmed, path: Path):
        self.stream, self.path = stream, path
        self.rows = self.taken = 0  # rows before, and characters after them

    def read(self, size: int | None = -1) -> str:
        text = self.stream.read(size)
        self.taken += len(text)
        if self.taken > MOST_BETWEEN:
            raise DataError(
                f"{self.path}: more than {MOST_BETWEEN:,} characters follow row {self.rows:,} without the end of a few "
                "rows; is a quote left open there? Close it, or cut the texts"
            )
        return text


def _delimited(source: Source, rows: int) -> Iterator[pd.DataFrame]:
    with characters(source.path, source.encoding) as text:
        _, head = without_separator_line(text.read(HEAD))
        bounded = _Bounded(Trimmed(text, "\r\n", head), source.path)
        try:
            with pd.read_csv(
                bounded,
                sep=source.delimiter,
                header=None,
                dtype=str,
                na_filter=False,
                skip_blank_lines=False,
                chunksize=rows,
            ) as chunks:
                names: list[str] = []
                for frame in chunks:
                    if not names:
                        names, frame = named_columns(frame.iloc[0].tolist()), frame.iloc[1:]
                    frame.columns = pd.Index(names)
                    bounded.rows, bounded.taken = bounded.rows + len(frame), 0
                    yield frame.reset_index(drop=True)
        except pd.errors.EmptyDataError as error:
            raise DataError(
                f"{source.path}: the file is empty or its first line is; start it with the column names"
            ) from error
        except pd.errors.ParserError as error:
            raise DataError(
                f"{source.path}: malformed CSV ({one_line(error)}); put texts that hold {source.delimiter!r} or line "
                "breaks in quotes"
            ) from error


def _records(path: Path, encoding: str) -> Iterator[dict[str, Any]]:
    with characters(path, encoding, trailing=None) as text:
        number, begun = 0, [""]
        while block := text.read(HEAD):
            first, *others = block.split("\n")
            begun.append(first)
            if len(begun) * HEAD > LONGEST_LINE:
                raise DataError(
                    f"{path}: line {number + 1} has more than {LONGEST_LINE:,} characters; a JSON array ends in .json"
                )
            for following in others:
                number += 1
                yield parsed_line("".join(begun), path, number)
                begun = [following]
        if last := "".join(begun):
            yield parsed_line(last, path, number + 1)


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A compressed file is unpacked to the disk: Parquet is read from its end."""
    with path.open("rb") as raw:
        packed = raw.read(4).startswith((GZIP, ZSTD))
    if not packed:
        with pq.ParquetFile(path, memory_map=False, **PARQUET) as file:
            yield file
        return
    with tempfile.TemporaryFile() as plain, unpacked(path) as stream:
        for block in iter(lambda: stream.read(BLOCK), b""):
            plain.write(block)
        plain.seek(0)
        with pq.ParquetFile(plain, **PARQUET) as file:
            yield file
