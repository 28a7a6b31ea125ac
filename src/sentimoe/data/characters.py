"""A file of any size as a stream of characters: unpacked, in the encoding that it is in, read block by block."""

from __future__ import annotations

import codecs
import gzip
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from ..errors import DataError
from .decoding import GZIP, MARKS, ZSTD, check_encoding, check_signature, is_cp1252, likely

BLOCK, SAMPLE = 1 << 22, 1 << 22
FEW = 0.01  # of the lines of a file: above that, lines that are not UTF-8 tell that the file is not
UNDECODABLE = "\ufdd0"  # no character: stands where bytes could not be decoded

logger = logging.getLogger(__name__)


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
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


def encoding_of(path: Path, told: str | None) -> str:
    """As it is named; else that of its byte order mark, UTF-8, or cp1252, by the rules of `decode`.

    Where a few lines are not UTF-8 among others that are, the file is UTF-8, and these lines are marked.
    """
    with unpacked(path) as stream:
        head = stream.read(BLOCK)
        check_signature(head, path)
        if told is not None:
            check_encoding(told)
            return told
        for mark, name in MARKS.items():
            if head.startswith(mark):
                logger.warning("%s is read as %s, which its first bytes are the mark of", path, name)
                return name
        found = _Lines()
        for block in chain([head], iter(lambda: stream.read(BLOCK), b"")):
            found.add(block)
        found.add(b"\n" if found.rest else b"")
    if found.others == 0 or found.utf8 > found.others:
        return "utf-8"
    sample = b"\n".join(found.sample)
    if found.utf8 == 0 and is_cp1252(sample):
        logger.warning("%s is not UTF-8 and read as cp1252; if that is wrong, name another with --encoding", path)
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
        if not end:  # one endless line, cut between two characters
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            decoder.decode(block)
            rest = decoder.getstate()[0]
            whole = block.removesuffix(rest)
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


def is_marked(value: Any) -> bool:
    """Whether bytes of a cell could not be decoded, be it a string, a list or an object."""
    if isinstance(value, str):
        return UNDECODABLE in value
    if isinstance(value, dict):
        return any(map(is_marked, (*value, *value.values())))
    return isinstance(value, list) and any(map(is_marked, value))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def characters(path: Path, encoding: str, trailing: str | None = "\r\n") -> Iterator[Trimmed]:
    """The characters of a file, what cannot be decoded as `UNDECODABLE`. trailing: see `Trimmed`."""
    with unpacked(path) as stream:
        text = io.TextIOWrapper(stream, encoding=encoding, errors="sentimoe_mark", newline="\n")
        try:
            yield Trimmed(text, trailing)
        finally:
            text.detach()


class Trimmed(io.TextIOBase):
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
