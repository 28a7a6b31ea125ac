"""The `sentimoe` command. Nothing here imports torch until a command runs, so that `--help` answers at once."""

from __future__ import annotations

import sys

import typer

from . import bench, evaluate, explain, explore, export, info, predict, study, train

app = typer.Typer(
    help="Turn a pre-trained language model into a mixture-of-experts sentiment classifier, and use it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("export")(export.export)
app.command("explain")(explain.explain)
app.command("explore")(explore.explore)
app.command("bench")(bench.bench)
app.command("info")(info.info)
app.add_typer(study.app, name="study")


def main() -> None:
    """Run the command. An error that sentimoe raised on purpose is one line on standard error and its exit code."""
    try:
        app()
    except Exception as error:
        known = sys.modules.get("sentimoe.errors")
        if known is None or not isinstance(error, known.SentiMoEError):
            raise
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)
