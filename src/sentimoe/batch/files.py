"""Files of a job's parts, and the one file that they become."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.writing import arrow_table, header_of, write_arrow, write_table
from ..errors import DataError
from ..records import written_aside

KINDS = ("csv", "jsonl", "parquet")


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
        fields = [field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in table.schema]
        schema = pa.schema(fields)
    with written_aside(path) as partial:
        write_arrow(_cast(table, schema), partial)


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        try:
            columns.append(table.column(field.name).cast(field.type))
        except pa.ArrowException as error:
            raise DataError(
                f'column "{field.name}" is of type {field.type} in the first part, and later of '
                f"{table.column(field.name).type}, which does not fit ({error}); write .jsonl"
            ) from error
    return pa.Table.from_arrays(columns, schema=schema)


def join(files: Sequence[Path], target: Path, empty: pd.DataFrame, overwrite: bool) -> None:
    """Make one file of the parts, whole or not at all. empty: the table of a job without rows."""
    try:
        with written_aside(target, overwrite) as partial:
            if not files:
                write_table(empty, partial.with_suffix(target.suffix))
                partial.with_suffix(target.suffix).replace(partial)
            elif target.suffix.lower() == ".parquet":
                with pq.ParquetWriter(partial, pq.read_schema(files[0])) as writer:
                    for file in files:
                        writer.write_table(pq.read_table(file))
            else:
                skip = 0
                with partial.open("wb") as stream:
                    for file in files:
                        with file.open("rb") as part:
                            part.seek(skip)
                            shutil.copyfileobj(part, stream, 1 << 20)
                        skip = len(header_of(empty)) if target.suffix.lower() == ".csv" else 0
    except FileExistsError as error:
        raise DataError(
            f"another process has written {target} meanwhile; choose another file or add --overwrite"
        ) from error
