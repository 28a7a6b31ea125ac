"""The `sentimoe` command. Nothing here imports torch until a command runs, so that `--help` answers at once."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from sentimoe_settings.errors import ExitCode, SentiMoEError

from . import (
    bench,
    compare,
    compress,
    domains,
    evaluate,
    explain,
    explore,
    export,
    info,
    predict,
    ready,
    serve,
    suspects,
    train,
)
from .messages import say
from .options import GroupedCommand

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
STREAM = FULL | {errno.EIO, errno.EBADF, errno.EISDIR}  # of standard input or output, which have no file name

app = typer.Typer(
    help="Train text classifiers, with or without experts, measure them, make them faster, and label files with them.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it would read "[text]" in a help line as markup, and leave it out
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sentimoe {version('sentimoe')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train text classifiers, with or without experts, measure them, make them faster, and label files with them."""


for command in (
    train.train,
    evaluate.evaluate,
    compare.compare,
    suspects.suspects,
    predict.predict,
    compress.compress,
    domains.add_domain,
    domains.remove_domain,
    export.export,
    explain.explain,
    explore.explore,
    serve.serve,
    bench.bench,
    info.info,
    ready.models,
):
    app.command(cls=GroupedCommand)(command)


def main() -> None:
    """Run the command of `sys.argv` and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], commands: typer.Typer = app, name: str = "sentimoe") -> int:
    """Run a command and return its exit code. What went wrong is one line on standard error; a bug raises.

    A reader of standard output that stops early, such as `head`, is no error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character gets an escape
    try:
        command = typer.main.get_command(commands)
        with command.make_context(name, list(arguments) or ["--help"]) as context:
            command.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
        return ExitCode.DONE
    except typer.Exit as done:
        return done.exit_code
    except KeyboardInterrupt:
        say("interrupted")
        return ExitCode.INTERRUPTED
    except typer.TyperException as error:
        say(f"error: {error.format_message()}{_hint(error)}")
        return ExitCode.USAGE
    except BrokenPipeError:
        _abandon_output()
        return ExitCode.DONE
    except OSError as error:
        if error.errno is None or (error.filename is None and error.errno not in STREAM):
            raise
        name = error.filename or "standard input or output"
        say(f"error: {name}: {os.strerror(error.errno)}; {_advice(error.errno)}")
        if error.filename is None:
            _abandon_output()
        return ExitCode.STOPPED if error.errno in FULL else ExitCode.USAGE
    except SentiMoEError as error:
        say(f"error: {error}")
        return error.exit_code


def _hint(error: typer.TyperException) -> str:
    """Where to read on, for a mistake that the parser found."""
    context = getattr(error, "ctx", None)
    if context is None:
        return ""
    dash = not getattr(error, "possibilities", True) and context.command.name == "predict"
    rule = (
        "a text that begins with a dash goes behind --, as in: sentimoe predict --model MODEL -- TEXT; " if dash else ""
    )
    return f" ({rule}see {context.command_path} --help)"


def _advice(code: int) -> str:
    if code in FULL:
        return "free some space and run the same command again"
    return "give a path that you may read or write there"


def _abandon_output() -> None:
    """Let Python's last flush of standard output go nowhere, where it would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
