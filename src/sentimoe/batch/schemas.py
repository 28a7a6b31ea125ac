"""The Parquet files of one job under one schema: types are widened, and columns that may be empty filled in."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from ..data.streaming import Source
from ..data.text import listed
from ..errors import DataError

logger = logging.getLogger(__name__)


def unified(sources: Sequence[Source]) -> list[Source]:
    """The sources, all of them Parquet, with the schema of all; a log line tells of columns that one lacks.

    Where one has integers and another floats, each keeps its own type: see `check_one_type`. Raises DataError that
    names the column that differs.
    """
    schemas = [source.schema for source in sources if source.schema is not None]
    if all(schema.equals(schemas[0]) for schema in schemas):
        return list(sources)
    first = sources[0]
    for source, schema in zip(sources, schemas, strict=True):
        if len(set(schema.names)) < len(schema.names):
            raise DataError(
                f"{source.path} has two columns of one name, and {first.path} has others; rename one of them"
            )
    fields: dict[str, tuple[pa.Field, Source]] = {}
    mixed: set[str] = set()
    for source, schema in zip(sources, schemas, strict=True):
        for field in schema:
            known, where = fields.get(field.name, (field, source))
            if pa.types.is_integer(known.type) + pa.types.is_integer(field.type) == 1 and _are_numbers(known, field):
                mixed.add(field.name)
            else:
                known = _merged(known, where, field, source)
            fields[field.name] = (known, where)
    for source, schema in zip(sources, schemas, strict=True):
        needed = [name for name, (field, _) in fields.items() if name not in schema.names and not field.nullable]
        if needed:
            raise DataError(
                f'{source.path} has no column "{needed[0]}", which is never empty in {fields[needed[0]][1].path}; '
                "files of one job have the same columns"
            )
        if lacking := [name for name in fields if name not in schema.names]:
            logger.warning("%s has no column %s; its rows have none of it", source.path, listed(lacking))
    whole = pa.schema([field for field, _ in fields.values()])
    found = []
    for source, schema in zip(sources, schemas, strict=True):
        absent = frozenset(whole.names) - set(schema.names)
        own = pa.schema([schema.field(f.name) if f.name in mixed - absent else f for f in whole])
        found.append(replace(source, names=tuple(whole.names), schema=own, absent=absent, mixed=frozenset(mixed)))
    return found


def check_one_type(sources: Sequence[Source]) -> None:
    """Raises DataError where a column has integers in one file and floats in another, which no Parquet column has."""
    for name in sorted(sources[0].mixed):
        raise DataError(
            f'column "{name}" has integers in some files and floats in others, and Parquet has one type for a column; '
            "write .jsonl or .csv, or make the files alike"
        )


def _merged(known: pa.Field, where: Source, field: pa.Field, source: Source) -> pa.Field:
    """A field that holds what two do. Raises DataError."""
    try:
        if _kind(known.type) != _kind(field.type) and not _is_null(known, field):
            raise pa.ArrowTypeError("one of them would become something else")
        pair = [pa.schema([pa.field(each.name, each.type, each.nullable)]) for each in (known, field)]
        return pa.unify_schemas(pair, promote_options="permissive").field(0)
    except pa.ArrowException as error:
        raise DataError(
            f'column "{field.name}" is of type {known.type} in {where.path} and of {field.type} in {source.path}; '
            "files of one job have the same types: write one of them again"
        ) from error


def _kind(of: pa.DataType) -> object:
    """Types of one kind may be widened: an integer or a decimal must not become a float, nor a string bytes."""
    if pa.types.is_nested(of) or pa.types.is_dictionary(of):
        return of
    return pa.types.is_integer(of), pa.types.is_decimal(of), pa.types.is_string(of) or pa.types.is_large_string(of)


def _are_numbers(*fields: pa.Field) -> bool:
    return all(pa.types.is_integer(field.type) or pa.types.is_floating(field.type) for field in fields)


def _is_null(*fields: pa.Field) -> bool:
    return any(pa.types.is_null(field.type) for field in fields)
