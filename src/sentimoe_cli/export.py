"""`sentimoe export`: a trained model as a folder that runs faster, and without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .messages import Mistake
from .options import NoVerify, TrustRemoteCode
from .places import check_folder, check_model

Option = typer.Option


def export(
    folder: Annotated[Path, typer.Argument(help="Folder of a classifier, a ready model or a hub id.")],
    output: Annotated[Path, typer.Argument(help="Folder to write: a new or an empty one.")],
    experts_per_token: Annotated[
        int | None, Option(help="Experts that read each token, fixed in the export. [as it was trained]")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    no_verify: NoVerify = False,
) -> None:
    """Write an OpenVINO model, its tokenizer and a description; `predict` and `evaluate` take the folder."""
    check_folder(output)
    if output.is_dir() and any(output.iterdir()):
        raise Mistake(f"{output} is not empty; choose another folder for the export")
    check_model(folder)
    from sentimoe import SentimentClassifier

    from .show import prepare_process

    prepare_process()
    classifier = SentimentClassifier.from_pretrained(
        folder, num_experts_per_tok=experts_per_token, trust_remote_code=trust_remote_code, verify=not no_verify
    )
    for comparison in classifier.export(output):
        typer.echo(f"compared with the model in {comparison}")
    typer.echo(f"written to {output}")
