"""Files of a job's parts, and the one file that they become."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.writing import arrow_table, header_of, write_arrow, write_table
from ..errors import DataError
from ..manifest import sha256
from ..records import remove_asides, written_aside

KINDS = ("csv", "jsonl", "parquet")
EMPTY = {b"empty": b"in the first part"}


def part_name(number: int, kind: str) -> str:
    """`part-00042.csv`."""
    return f"part-{number:05d}.{kind}"


def write_part(frame: pd.DataFrame, path: Path, schema: pa.Schema | None) -> None:
    """Write a part, whole or not at all; it is on the disk afterwards.

    schema: of the first part, for Parquet: all have one. Raises DataError where a column does not fit it.
    """
    if path.suffix != ".parquet":
        write_table(frame, path)
        return
    table = arrow_table(frame)
    if schema is None:  # a column that is empty in the first part is one of strings
        schema = pa.schema(
            [pa.field(f.name, pa.string(), metadata=EMPTY) if pa.types.is_null(f.type) else f for f in table.schema]
        )
    with written_aside(path) as partial:
        write_arrow(_cast(table, schema), partial)


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        column = table.column(field.name)
        empty = bool(field.metadata and field.metadata.get(b"empty"))
        try:
            if not _fits(column.type, field.type) or (empty and not _is_text(column.type)):
                raise pa.ArrowInvalid("values would be lost or changed")
            columns.append(column.cast(field.type))
        except pa.ArrowException as error:
            before = "empty" if empty else f"of type {field.type}"
            raise DataError(
                f'column "{field.name}" is {before} in the first part, and later of {column.type}, which does not fit '
                f"({error}); write .jsonl"
            ) from error
    return pa.Table.from_arrays(columns, schema=schema)


def _fits(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a cast keeps every value what it is: "00501" must not become 501, nor an object lose a field."""
    if pa.types.is_null(given) or given == wanted:
        return True
    if pa.types.is_struct(given) and pa.types.is_struct(wanted):
        kept = {wanted.field(index).name: wanted.field(index).type for index in range(wanted.num_fields)}
        fields = [given.field(index) for index in range(given.num_fields)]
        return all(field.name in kept and _fits(field.type, kept[field.name]) for field in fields)
    if pa.types.is_nested(given) and pa.types.is_nested(wanted) and given.num_fields == wanted.num_fields == 1:
        return _fits(given.field(0).type, wanted.field(0).type)
    return (_is_text(given) and _is_text(wanted)) or (_is_number(given) and _is_number(wanted))


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


def join(
    files: Sequence[Path], target: Path, empty: pd.DataFrame, overwrite: bool, tell: Callable[[str], None]
) -> None:
    """Make one file of the parts, whole or not at all. empty: the table of no rows, for its header.

    tell: gets the hash of the file before it gets its name. Raises DataError where there is a file of this name.
    """
    remove_asides(target)
    try:
        with written_aside(target, overwrite) as partial:
            if target.suffix.lower() == ".parquet":
                with pq.ParquetWriter(partial, pq.read_schema(files[0])) as writer:
                    for file in files:
                        writer.write_table(pq.read_table(file))
            else:
                header = header_of(empty) if target.suffix.lower() == ".csv" else b""
                with partial.open("wb") as stream:
                    stream.write(header)
                    for file in files:
                        with file.open("rb") as part:
                            if part.read(len(header)) != header:
                                raise DataError(f"{file} does not begin with the names of the columns; begin anew")
                            shutil.copyfileobj(part, stream, 1 << 20)
            tell(sha256(partial))
    except FileExistsError as error:
        raise DataError(
            f"another process has written {target} meanwhile; choose another file or add --overwrite"
        ) from error
