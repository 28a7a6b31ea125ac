"""Files of any size as tables of some rows at a time: what `read_table` gives, in constant memory.

A file is looked at once before (`inspected`): its hash, encoding and columns. What cannot be read at all is refused
there, before any work. Single undecodable characters are not: the rows that hold them are read, and marked.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import logging
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError
from .decoding import GZIP, MARKS, ZSTD, check_encoding, check_signature, is_cp1252, likely
from .delimited import check_delimiter, find_delimiter, named_columns, without_separator_line
from .reading import FileFormat, distinct, kind_of, parsed_line, read_table
from .text import one_line

BLOCK, HEAD, SAMPLE = 1 << 22, 1 << 20, 1 << 22
FEW = 0.01  # of the lines of a file: above that, lines that are not UTF-8 tell that the file is not
UNDECODABLE = "\ufdd0"  # no character: stands where bytes could not be decoded
ROWS_CHECKED = 8192
STREAMED = (".csv", ".tsv", ".jsonl", ".parquet")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A file that was looked at. sha256: of its bytes as they are. names: of its columns, as they stand there."""

    path: Path
    kind: str
    sha256: str
    size: int
    changed: int  # when, in nanoseconds
    names: tuple[str, ...]
    encoding: str = ""
    delimiter: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names, each once."""
        return tuple(distinct(list(self.names)))

    def check_unchanged(self) -> None:
        """Raises DataError where the file has been written to since it was looked at."""
        now = self.path.stat()
        if (now.st_size, now.st_mtime_ns) != (self.size, self.changed):
            raise DataError(f"{self.path} was changed while it was read; its rows may be of two versions: begin anew")


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
        names = [str(name) for name in read_table(path, file_format).frame.columns]
        encoding, delimiter = file_format.encoding or "", file_format.delimiter or ""
        return Source(path, kind, _sha256(path), *_state(path), tuple(names), encoding, delimiter)
    with _readable(path):
        found = Source(path, kind, _sha256(path), *_state(path), ())
        if kind == ".parquet":
            with _parquet(path) as file:
                return replace(found, names=tuple(file.schema_arrow.names))
        found = replace(found, encoding=_encoding(path, file_format.encoding))
        if kind == ".jsonl":
            names = list(dict.fromkeys(name for record in _records(path, found.encoding) for name in record))
            return replace(found, names=tuple(names))
        with _text(path, found.encoding) as text:
            head = text.read(HEAD)
        told = "\t" if kind == ".tsv" and file_format.delimiter is None else file_format.delimiter
        found = replace(found, delimiter=_delimiter(head, told))
        columns: list[str] = []
        for frame in _delimited(found, ROWS_CHECKED):  # to the end: a malformed row shows before any work
            columns = list(frame.columns)
        return replace(found, names=tuple(columns))


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def frames(source: Source, rows: int) -> Iterator[pd.DataFrame]:
    """The rows of a file, in order, at most `rows` at a time, under the columns of the source.

    Raises DataError where the file is damaged or malformed further on.
    """
    with _readable(source.path):
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
                table = pa.Table.from_batches([batch])
                yield table.to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    else:
        frame = read_table(source.path, FileFormat(source.encoding or None, source.delimiter or None)).frame
        for start in range(0, len(frame), rows):
            yield frame.iloc[start : start + rows].reset_index(drop=True)


def _frame(records: list[dict[str, Any]], source: Source) -> pd.DataFrame:
    return pd.DataFrame(records, columns=pd.Index(source.columns, dtype=object), dtype=object)


# --- bytes and characters


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the compressed file is damaged or cut short ({error}); copy it again") from error
    except pa.ArrowException as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)}); write it again") from error
    except OSError as error:
        if error.errno is None:  # of Arrow, which unpacks zstd
            raise DataError(f"{path}: the compressed file is damaged or cut short ({error}); copy it again") from error
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the file") from error


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked where its first ones say that it is gzip or zstd, whatever its name."""
    with path.open("rb") as raw:
        start = raw.read(4)
        raw.seek(0)
        if start.startswith(GZIP):
            with gzip.open(raw) as stream:
                yield stream  # type: ignore[misc]
        elif start.startswith(ZSTD):
            with pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd") as stream:
                yield io.BufferedReader(stream)
        else:
            yield raw


def _encoding(path: Path, told: str | None) -> str:
    """As it is named; else that of its byte order mark, UTF-8, or cp1252, by the rules of `decode`.

    Where a few lines are not UTF-8 among others that are, the file is UTF-8, and these lines are marked.
    """
    with _unpacked(path) as stream:
        head = stream.read(BLOCK)
        check_signature(head, path)
        if told is not None:
            check_encoding(told)
            return told
        for mark, name in MARKS.items():
            if head.startswith(mark):
                return name
        found = _Lines()
        for block in chain([head], iter(lambda: stream.read(BLOCK), b"")):
            found.add(block)
        found.add(b"\n" if found.rest else b"")
    if found.others == 0 or found.utf8 > found.others:
        return "utf-8"
    sample = b"\n".join(found.sample)
    if found.utf8 == 0 and is_cp1252(sample):
        logger.warning("%s is not UTF-8 and read as cp1252; name another with --encoding", path)
        return "cp1252"
    if found.others <= FEW * found.lines:
        return "utf-8"
    raise DataError(
        f"{path}: {found.others:,} of {found.lines:,} lines are not UTF-8; name the encoding of the file with "
        f"--encoding{likely(sample)}"
    )


class _Lines:
    """Lines of a file by what they hold beside ASCII. sample: the first ones that are not UTF-8."""

    def __init__(self) -> None:
        self.lines = self.utf8 = self.others = self._size = 0
        self.sample: list[bytes] = []
        self.rest = b""

    def add(self, block: bytes) -> None:
        whole, end, rest = block.rpartition(b"\n")
        if not end and len(self.rest) < SAMPLE:
            self.rest += block
            return
        if not end:  # one endless line
            whole, rest = block, b""
        whole, self.rest = self.rest + whole, rest
        self.lines += whole.count(b"\n") + 1
        if whole.isascii():
            return
        for line in whole.split(b"\n"):
            if line.isascii():
                continue
            if _is_utf8(line):
                self.utf8 += 1
                continue
            self.others += 1
            if self._size < SAMPLE:
                self.sample.append(line)
                self._size += len(line)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def _text(path: Path, encoding: str, trailing: str | None = "\r\n") -> Iterator[_Trimmed]:
    """The characters of a file, what cannot be decoded as `UNDECODABLE`. trailing: see `_Trimmed`."""
    with _unpacked(path) as stream:
        text = io.TextIOWrapper(stream, encoding=encoding, errors="sentimoe_mark", newline="\n")
        try:
            yield _Trimmed(text, trailing)
        finally:
            text.detach()


class _Trimmed(io.TextIOBase):
    """A text stream without a byte order mark, and without these characters at its end (None: white space).

    before: what was read of it already.
    """

    def __init__(self, stream: Any, trailing: str | None, before: str = ""):
        self._stream, self._trailing, self._waiting, self._begun = stream, trailing, before, bool(before)

    def read(self, size: int | None = -1) -> str:
        while True:
            more = self._stream.read(BLOCK if size is None or size < 0 else size)
            text = self._waiting + (more if self._begun else more.removeprefix("\ufeff"))
            self._begun = self._begun or bool(more)
            kept = text.rstrip(self._trailing)
            self._waiting = text[len(kept) :] if more else ""
            if kept or not more:
                return kept


codecs.register_error("sentimoe_mark", lambda error: (UNDECODABLE, error.end))  # type: ignore[attr-defined]


# --- rows


def _delimiter(head: str, told: str | None) -> str:
    """As it is named, or found in the first megabyte."""
    check_delimiter(told)
    named, rest = without_separator_line(head)
    return told or named or find_delimiter(rest)


def _delimited(source: Source, rows: int) -> Iterator[pd.DataFrame]:
    with _text(source.path, source.encoding) as text:
        _, head = without_separator_line(text.read(HEAD))
        try:
            with pd.read_csv(
                _Trimmed(text, "\r\n", head),
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
    with _text(path, encoding, trailing=None) as text:
        number, begun = 0, [""]
        while block := text.read(HEAD):
            first, *others = block.split("\n")
            begun.append(first)
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
        with pq.ParquetFile(path, page_checksum_verification=True, memory_map=False) as file:
            yield file
        return
    with tempfile.TemporaryFile() as plain, _unpacked(path) as stream:
        for block in iter(lambda: stream.read(BLOCK), b""):
            plain.write(block)
        plain.seek(0)
        with pq.ParquetFile(plain, page_checksum_verification=True) as file:
            yield file
