"""`sentimoe add-domain` and `remove-domain`: a domain that a classifier learns later, and what that does to old texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .messages import Mistake, say
from .options import AsJson, Delimiter, Encoding, LabelColumn, NoVerify, Precision, TextColumn, TrustRemoteCode
from .places import check_data, check_folder

Option = typer.Option
Model = Annotated[Path, typer.Argument(help="Run folder or saved classifier, dense or merged.")]


def add_domain(
    model: Model,
    name: Annotated[str, Option(help="Of the domain, such as airlines.")],
    data: Annotated[str, Option(help="Labelled texts of the domain: a file, a folder or a preset.")],
    unlabelled: Annotated[Path | None, Option(help="File of more texts of the domain, for the router.")] = None,
    old_texts: Annotated[
        Path | None,
        Option(help="File of texts that the model is used for already; with labels, what happens to F1 is shown too."),
    ] = None,
    max_moved: Annotated[
        float,
        Option(help="Share of old texts that may go to the new domain; more, and nothing is added.", min=0, max=1),
    ] = 0.05,
    output: Annotated[
        Path | None, Option(help="New folder for the model with the domain. [the folder of the model]")
    ] = None,
    layers: Annotated[int, Option(help="How many of the last layers the domain adapts.", min=1)] = 2,
    epochs: Annotated[
        int | None,
        Option(help="Passes over its texts; the best on validation counts. [4, up to 20 for few texts]", min=1),
    ] = None,
    learning_rate: Annotated[
        float, Option(help="Of full fine-tuning; updates and head of a domain train at ten times this.")
    ] = 1e-4,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    precision: Precision = "auto",
    seed: Annotated[int, Option(help="Seed of everything random.", min=0)] = 0,
    trust_remote_code: TrustRemoteCode = False,
    no_verify: NoVerify = False,
    as_json: AsJson = False,
) -> None:
    """Teach a classifier a new domain, which you can remove again.

    A router sends each text to the domain that it belongs to; all others are answered as before. The receipt says how
    many old texts go to the new domain.
    """
    _check_folder_of_model(model)
    check_data(data, unlabelled, old_texts)
    check_folder(output or model)
    from sentimoe.data import load_dataset, read_texts
    from sentimoe.domains import Recipe
    from sentimoe.domains import add_domain as add
    from sentimoe.model_folder import THRESHOLD

    from .models import usual_format
    from .show import prepare_process, print_json

    prepare_process()
    file_format = usual_format(str(model), encoding, delimiter)
    dataset = load_dataset(data, text_column=text_column, label_column=label_column, file_format=file_format)
    for warning in dataset.warnings:
        say(f"warning: {warning}")
    more = [] if unlabelled is None else read_texts(unlabelled, text_column, file_format)[1]
    recipe = Recipe(
        layers=layers, epochs=epochs, learning_rate=learning_rate, max_moved=max_moved, seed=seed, precision=precision,
        trust_remote_code=trust_remote_code, verify=not no_verify,
    )  # fmt: skip
    receipt = add(
        model, name, dataset, recipe, unlabelled=more, output=output, progress=say,
        old_texts=None if old_texts is None else _old(old_texts, text_column, label_column, file_format),
    )  # fmt: skip
    if (model / THRESHOLD).exists():
        say(f"warning: the threshold of {model} was found without {name}; find it again with sentimoe evaluate --save")
    if as_json:
        print_json(receipt)
        return
    for line in told(receipt, output or model):
        typer.echo(line)
    typer.echo(f"written to {output or model}")


def remove_domain(model: Model, name: Annotated[str, Option(help="Of the domain.")]) -> None:
    """Take an added domain away: the folder is then, byte for byte, what it was before."""
    _check_folder_of_model(model)
    check_folder(model)
    from sentimoe.inference import remove_domain as remove

    remove(model, name)
    typer.echo(f"{name} is removed from {model}")


def told(receipt: dict[str, Any], folder: Path) -> list[str]:
    """A receipt in words. folder: of the model with the domain."""
    own, name = receipt["domain"], receipt["name"]
    before = f", the model before {own['before']['accuracy']:.4f}" if "before" in own else ""
    lines = [
        f"{own['texts']} {own['split']} texts of {name}: the router finds {own['found']:.1%} of them; accuracy "
        f"{own['routed']['accuracy']:.4f}, with --domain {name} {own['domain']['accuracy']:.4f}{before}"
    ]
    for of, each in receipt["kept"].items():
        lines.append(f"of {each['vectors']} kept texts of {of}, {each['moved']:.2%} go to {name} now")
    lines.append(f"all domains together take {receipt['base_moved_in_all']:.2%} of the kept texts of base")
    if "before" in own and own["routed"]["accuracy"] < own["before"]["accuracy"]:
        lines.append(
            f"warning: its own texts were answered better before; remove it: sentimoe remove-domain {folder} --name {name}"
        )
    lines.append(f"of texts that the router has not seen, it takes an estimated {receipt['router']['moved']:.2%}")
    if "before" not in own:  # it has labels of its own
        lines.append(f"an old text that goes to {name} gets one of its labels; for fewer of them, lower --max-moved")
    alike = {True: "bit for bit as before", False: "as before, up to rounding"}
    if (trained := receipt.get("training_texts")) is not None:
        lines.append(
            f"{trained['texts']} training texts of the model that do not go to {name} are answered "
            f"{alike[trained['identical']]}"
        )
    if (old := receipt.get("old_texts")) is not None:
        lines.append(
            f"of {old['texts']} old texts, {old['moved']} ({old['share']:.2%}) go to {name} now; the others are "
            f"answered {alike[old['identical']]}"
        )
        if "before" in old:
            lines.append(
                f"weighted F1 of the old texts: {old['after']['f1_weighted']:.4f}, before {old['before']['f1_weighted']:.4f}"
            )
    lines.append(f"{receipt['seconds']['all']:.0f} s, of which training {receipt['seconds']['training']:.0f} s")
    return lines


def _old(path: Path, text_column: str | None, label_column: str | None, file_format: Any) -> Any:
    """Old texts, with their labels where the file has a column of them."""
    from sentimoe.data import WHOLE, read_texts, read_whole_file
    from sentimoe.data.rows import find_column
    from sentimoe.domains import OldTexts
    from sentimoe.errors import DataError

    frame, texts = read_texts(path, text_column, file_format)
    try:
        find_column(frame, str(path), label_column, "label", file_format.columns[1])
    except DataError:
        say(f"note: {path} has no column of labels, so F1 of the old texts is not shown; name it with --label-column")
        return OldTexts(texts)
    found = read_whole_file(path, text_column=text_column, label_column=label_column, file_format=file_format).dataset
    part = found.splits[WHOLE]
    return OldTexts(part.texts, [found.label_names[label] for label in part.labels])


def _check_folder_of_model(model: Path) -> None:
    if not model.is_dir():
        raise Mistake(f"{model} is no folder; a domain is put into the folder of a trained model")
