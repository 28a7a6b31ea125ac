"""Options made from the fields of the settings, and a help that groups them and fits 80 columns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperCommand

from sentimoe_settings import METHOD_SETTINGS
from sentimoe_settings.base import has_type

TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the Python code that the model brings along.")
]
NoVerify = Annotated[
    bool,
    typer.Option(
        "--no-verify", help="Load a folder that was changed on purpose: skip the comparison with its manifest."
    ),
]
TextColumn = Annotated[str | None, typer.Option(help="Column of the texts. [text]")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the labels. [label]")]
MapLabels = Annotated[
    str | None, typer.Option(help="Read labels of the data as other ones, such as neg=negative,pos=positive.")
]
Delimiter = Annotated[str | None, typer.Option(help="Character between the columns of a CSV file. [detected]")]
Encoding = Annotated[str | None, typer.Option(help="Encoding of a text file, such as cp1252. [UTF-8, or detected]")]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse data in which a row lacks its text or its label.")]
Precision = Annotated[Literal["auto", "bfloat16", "float32"], typer.Option(help="Number format.")]
Backend = Annotated[Literal["torch", "openvino"], typer.Option(help="What runs the model.")]
LongTexts = Annotated[
    Literal["windows", "truncate"],
    typer.Option(help="Read all of a long text in windows, or cut it (counted on standard error)."),
]
Mode = Annotated[
    Literal["calibrated", "uncalibrated", "generate"], typer.Option(help="How zero-shot finds the answer.")
]
ExpertsPerToken = Annotated[
    int | None, typer.Option(help="Experts that read each token: fewer are faster. [as it was trained]")
]
MaxDisagreement = Annotated[
    float | None,
    typer.Option(help="Of a compressed model: one of its certified tolerances, or 0 to use all layers."),
]
Domain = Annotated[
    str | None,
    typer.Option(
        help="Of a model with added domains: the only one that answers; base: the model itself. [by the text]"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


class GroupedCommand(TyperCommand):
    """A command whose help shows its options by panel. Unlike typer's own panels it never cuts a name."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for part in self.get_params(ctx):
            title = "Arguments" if part.param_type_name == "argument" else "Options"
            if record := part.get_help_record(ctx):
                panels.setdefault(getattr(part, "rich_help_panel", None) or title, []).append(record)
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records)


def with_options(
    fields: Mapping[str, FieldInfo], panels: Sequence[str]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for each field, panel by panel; one that is not given reaches its `**given` as None."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        ordered = sorted(fields.items(), key=lambda item: panels.index(_extra(item[1])["panel"]))
        parameters = own + [_option(name, field) for name, field in ordered]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return decorate


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    extra = _extra(field)
    kind = _kind(field.annotation)
    flag = extra["flag"] or f"--{name.replace('_', '-')}"
    flags = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
    help_text = f"{' '.join((field.description or '').split())} [{extra['shown'] or _default(name, field)}]"
    metavar = "<str>" if kind == list[str] else None
    option = typer.Option(flags, metavar=metavar, help=help_text.removesuffix(" []"), rich_help_panel=extra["panel"])
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _extra(field: FieldInfo) -> dict[str, Any]:
    return cast("dict[str, Any]", field.json_schema_extra)


def _kind(annotation: Any) -> Any:
    """The type that a shell can give; a list of numbers is given as text with commas."""
    if has_type(annotation, list):
        return list[str]
    if has_type(annotation, tuple):
        return str
    return next((kind for kind in (bool, int, float) if has_type(annotation, kind)), str)


def _default(name: str, field: FieldInfo) -> str:
    """The default, and that of the methods that have another one."""
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    others = {
        method: known[name] for method, known in METHOD_SETTINGS.items() if known.get(name) not in (None, field.default)
    }
    shown = [] if field.default is None else [_number(field.default)]
    return "; ".join(shown + [f"{_number(value)} for {method}" for method, value in others.items()])


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
