"""What all settings share: strict types, and errors that say what was given and what is allowed."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import reprlib
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, Union, dataclass_transform, get_args, get_origin

import pydantic
import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo

from .errors import ConfigError

STRICT = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
T = TypeVar("T")


class Settings:
    """Base of the classes below `@settings`."""

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """Type, limits, default and help text of every setting."""
        return cls.__pydantic_fields__  # type: ignore[attr-defined]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from a mapping such as a YAML file. Raises ConfigError."""
        if unknown := sorted(map(str, set(values) - set(cls.fields()))):
            raise ConfigError(f"unknown settings {unknown}; allowed are {sorted(cls.fields())}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()  # type: ignore[call-overload]
        }


@dataclass_transform(frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make a frozen pydantic dataclass whose constructor raises ConfigError."""
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=STRICT)(cls)
    validate = made.__init__

    @functools.wraps(validate)
    def __init__(self: Any, *args: Any, **values: Any) -> None:
        try:
            validate(self, *args, **values)
        except pydantic.ValidationError as error:
            raise _refusal(made, error, values) from None

    made.__init__ = __init__
    return made


def panel(title: str) -> Callable[..., Any]:
    """A function that makes the fields of one panel of the help.

    Its arguments: the default; `flag`, where the option has another name; `shown`, the default in words; limits (`ge`,
    `gt`, `le`, `lt`, `min_length`).
    """

    def field(default: Any, *, flag: str | None = None, shown: str | None = None, **limits: Any) -> Any:
        return pydantic.Field(default, json_schema_extra={"panel": title, "flag": flag, "shown": shown}, **limits)

    return field


def _refusal(made: type[Settings], error: pydantic.ValidationError, values: dict[str, Any]) -> ConfigError:
    found = error.errors()
    first = found[0]
    if first["type"] == "value_error":
        return ConfigError(str(first["ctx"]["error"]))
    names = [each["loc"][0] for each in found if each["type"] == first["type"]]
    if first["type"] == "unexpected_keyword_argument":
        return ConfigError(f"unknown settings {sorted(names)}; allowed are {sorted(made.fields())}")
    if first["type"] == "missing":
        needed = sorted(name for name, field in made.fields().items() if field.is_required())
        return ConfigError(f"settings {sorted(names)} are missing; {made.__name__} needs {needed}")
    name = str(first["loc"][0])
    return refusal(name, values.get(name, first["input"]), made.fields()[name])


def refusal(name: str, value: Any, field: FieldInfo) -> ConfigError:
    """The error for a value that a setting does not allow."""
    exponent = isinstance(value, str) and re.fullmatch(r"[0-9]+[eE][+-]?[0-9]+", value)
    hint = " (YAML reads 1e-4 as text; write 1.0e-4)" if exponent and has_type(field.annotation, float) else ""
    allowed = described(field.annotation, field.metadata)
    return ConfigError(f"{name}={reprlib.repr(value)} is not allowed; it must be {allowed}{hint}")


def has_type(kind: Any, wanted: Any) -> bool:
    """Whether a type, or one inside it, is the wanted one."""
    return wanted in (kind, get_origin(kind)) or any(has_type(each, wanted) for each in get_args(kind))


def described(kind: Any, limits: Any = ()) -> str:
    """A type and its limits in words: "a whole number, 1 or more, or None"."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return described(inner[0], (*limits, *inner[1:]))
    if origin in (Union, UnionType):
        first, *others = (described(each, limits) for each in inner)
        return f"{first}{',' * (', ' in first)} or {' or '.join(others)}"
    if origin is Literal:
        return ("one of " if len(inner) > 1 else "") + ", ".join(map(repr, inner))
    if origin in (list, tuple):
        few = ", at least one" if any(isinstance(each, MinLen) for each in limits) else ""
        return f"a list, each {described(inner[0])}{few}"
    return TYPES.get(origin or kind, getattr(kind, "__name__", str(kind))) + (_range(limits) if kind in NUMBERS else "")


def _range(limits: Any) -> str:
    low = [f"{each.ge} or more" if isinstance(each, Ge) else f"above {each.gt}" for each in _of(limits, Ge, Gt)]
    high = [f"at most {each.le}" if isinstance(each, Le) else f"below {each.lt}" for each in _of(limits, Le, Lt)]
    if low and high and "or more" in low[0] and "at most" in high[0]:
        return f", between {low[0].split()[0]} and {high[0].split()[-1]}"
    return ", " + " and ".join(low + high) if low or high else ""


def _of(limits: Any, *kinds: type) -> list[Any]:
    """The limits of these kinds, also of those inside a `Field`."""
    inside = [deep for each in limits if isinstance(each, FieldInfo) for deep in each.metadata]
    return [each for each in (*limits, *inside) if isinstance(each, kinds)]


NUMBERS = (int, float)
TYPES = {
    int: "a whole number",
    float: "a plain number",
    bool: "true or false",
    str: "a string",
    dict: "names with values",
    NoneType: "None",
}


def _path_text(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_path_text(each) for each in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _whole_numbers(value: Any) -> Any:
    if type(value) is int:
        return (value,)
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d+(\s*,\s*-?\d+)*\s*", value):
        return tuple(map(int, value.split(",")))
    return tuple(value) if isinstance(value, list | range) else value


def _names(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(","))
    return tuple(value) if isinstance(value, list) else value


Names = pydantic.BeforeValidator(_names)  # ["low", "high"] or "low, high"
PathText = pydantic.BeforeValidator(_path_text)  # a path as text or `Path`, or a list of them
WholeNumbers = pydantic.BeforeValidator(_whole_numbers)  # [-2, -1], range(2), -1 or "-2,-1"


def check_whole(name: str, value: Any, low: int) -> None:
    """Raises ConfigError when an argument is no whole number of `low` or more."""
    if type(value) is not int or value < low:
        raise ConfigError(f"{name}={value!r} is not allowed; it must be a whole number, {low} or more")


def read_yaml(path: Path, what: str, example: str) -> dict[str, Any]:
    """The mapping in a YAML file, which is a `what` and holds such as `example`. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"{what} {path} does not exist")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} is not valid YAML: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{what} {path} must hold {example}")
    return found
