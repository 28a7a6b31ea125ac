"""Bytes of a file to text: unpacked where they are compressed, in the encoding that they are in."""

import codecs
import gzip
import logging
import re
import zlib
from pathlib import Path

import charset_normalizer
import pyarrow as pa

from ..errors import ConfigError, DataError

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
COMPRESSED = (".gz", ".zst")

# what a file that is no text begins with
SIGNATURES = {
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or name it .xlsx if it is an Excel file",
    b"\xd0\xcf\x11\xe0": "an old Excel file; name it .xls",
    b"BZh91AY&SY": "bzip2-compressed; unpack it first",
    b"\xfd7zXZ\x00": "xz-compressed; unpack it first",
    b"PAR1": "a Parquet file; name it .parquet",
    b"%PDF": "a PDF, not a table; save the table as .csv or .xlsx",
    b"\x89PNG": "a picture, not a table",
    b"\xff\xd8\xff": "a picture, not a table",
    b"\x7fELF": "a program, not a table",
    b"SQLite": "a database, not a table; export the table as .csv",
}
MARKS = {  # that of UTF-32 begins like that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

WESTERN = frozenset("àáâãäåæçèéêëìíîïñòóôõöøùúûüœšžßÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŒŠŽ‘’‚“”„•–—…€£§°©®™«»¡¿²³½¼¾´·ºª\xa0")
# what another alphabet looks like when it is read as Western: accents in a row, and signs inside words
OTHER = re.compile(r"[^\W\d_a-zA-Z]{3,}|(?<=[^\W\d_])[¡¿²³½¼¾°·ºª£§](?=[^\W\d_])")

logger = logging.getLogger(__name__)


def read_bytes(path: Path) -> bytes:
    """What a file holds, unpacked where its first bytes say that it is gzip or zstd, whatever its name.

    Raises:
        DataError: the archive is damaged.
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    try:
        if data.startswith(GZIP):
            return gzip.decompress(data)
        if data.startswith(ZSTD):
            with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
                return stream.read()
    except (EOFError, zlib.error, OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: the compressed file is damaged or cut short ({error}); copy it again") from error
    return data


def decode(data: bytes, path: Path, encoding: str | None = None) -> str:
    """The text of a file, without a byte order mark.

    encoding: a name that Python knows; None: UTF-8, or what a byte order mark says, or Excel's cp1252 where no
    character beyond ASCII is UTF-8 and all read as Western European. A log line says so.

    Raises:
        ConfigError: Python knows no such encoding.
        DataError: no text, damaged, or in another encoding than the one named.
    """
    check_signature(data, path)
    if encoding is not None:
        return _decoded_as(data, path, encoding)
    for mark, name in MARKS.items():
        if data.startswith(mark):
            logger.warning("%s is read as %s, which its first bytes are the mark of", path, name)
            return _decoded_as(data, path, name)
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if is_cp1252(data):
            logger.warning("%s is not UTF-8 and read as cp1252; if that is wrong, name another with --encoding", path)
            return data.decode("cp1252")
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte {error.start} (0x{data[error.start]:02x}) is not UTF-8; name the encoding of "
            f"the file with --encoding{likely(data)}"
        ) from error


def check_signature(data: bytes, path: Path) -> None:
    """Raises DataError for the first bytes of a file that is no text."""
    for signature, what in SIGNATURES.items():
        if data.startswith(signature):
            raise DataError(f"{path}: not a text file but {what}")


def check_encoding(encoding: str) -> None:
    """Raises ConfigError for a name that Python does not know, and for what is no encoding of texts."""
    try:
        "a, b".encode(encoding).decode(encoding)
    except (LookupError, UnicodeError) as error:
        raise ConfigError(
            f"encoding={encoding!r} is no encoding of text files; give one such as utf-8, cp1252 or utf-16"
        ) from error


def _decoded_as(data: bytes, path: Path, encoding: str) -> str:
    check_encoding(encoding)
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeError as error:
        place = f"byte {error.start}" if isinstance(error, UnicodeDecodeError) else str(error)
        raise DataError(f"{path}: {place} is not {encoding}; name the encoding of the file with --encoding") from error


def is_cp1252(data: bytes) -> bool:
    """Whether bytes that are not UTF-8 read as Western European text in Excel's encoding."""
    if b"\0" in data or not data.decode("utf-8", "ignore").isascii():
        return False
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    if any(character < " " and character not in "\t\r\n" for character in text):
        return False
    others = [character for character in text if not character.isascii()]
    unusual = sum(character not in WESTERN for character in others) + sum(map(len, OTHER.findall(text)))
    return unusual <= 0.1 * len(others)


def likely(data: bytes) -> str:
    """What charset-normalizer thinks that it is, as the end of a message."""
    found = charset_normalizer.from_bytes(data[:1_000_000]).best()
    return "" if found is None or found.encoding in ("ascii", "utf_8") else f", such as {found.encoding}"
