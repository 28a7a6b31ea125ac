"""`python -m experiments`: run declared experiments and render their results."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from sentimoe_cli import run as run_command
from sentimoe_cli.messages import Mistake, say
from sentimoe_cli.places import check_folder

Option = typer.Option
DataRoot = Annotated[Path, Option(help="Folder with one folder for each data set, named like it.")]
OptionalDataRoot = Annotated[Path | None, Option(help="Folder with one folder for each data set, named like it.")]
ResultsFolder = Annotated[Path, Option(help="Folder for the results.")]
app = typer.Typer(help="Run declared experiments and render their results.", rich_markup_mode=None)


@app.command("run")
def run(
    study: Annotated[Path, typer.Argument(help="Study file, such as experiments/studies/paper.yaml.")],
    only: Annotated[
        list[str] | None, Option(help="Only runs whose name contains all of these strings (repeatable).")
    ] = None,
    budget: Annotated[str | None, Option(help="Start no run that would end later than this: 50m, 2h, 90s.")] = None,
    data_root: OptionalDataRoot = None,
    results: ResultsFolder = Path("results"),
    models: Annotated[Path, Option(help="Folder for the weights of teachers.")] = Path("runs/models"),
    keep_models: Annotated[bool, Option("--keep-models", help="Also keep every model trained now.")] = False,
) -> None:
    """Run what has no result yet; a study that was killed continues where it stopped."""
    check_folder(results)
    check_folder(models)
    seconds = None if budget is None else _seconds(budget)
    from experiments.runner import run_study
    from experiments.study_file import read_study
    from sentimoe.errors import ConfigError
    from sentimoe_cli.show import prepare_process
    from sentimoe_cli.stopping import stopped_by_signals

    prepare_process()
    if data_root is not None and not data_root.is_dir():
        raise ConfigError(f"--data-root {data_root} is no folder; give the one that holds the data sets")
    declared = read_study(study)

    def wanted(item) -> bool:
        return all(part in item.name for part in only or ())

    count = sum(map(wanted, declared))
    if not count:
        raise ConfigError(f"no run of {study} has a name that contains {' and '.join(only or [])}")
    with stopped_by_signals("python -m experiments") as stop:
        missing = run_study(
            declared,
            results,
            wanted=wanted,
            data_root=data_root,
            budget=seconds,
            models=models,
            name=study.stem,
            keep_models=keep_models,
            stop=stop,
            progress=say,
        )
    typer.echo(f"{count - missing} of {count} runs have a result in {results / 'runs'}")


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found:
        raise Mistake(f"budget {text!r} must be a number and a unit, such as 90s, 50m or 2h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


@app.command("sizes")
def sizes(
    data_root: DataRoot,
    data: Annotated[list[str] | None, Option(help="Only these data sets (repeatable).")] = None,
    size: Annotated[list[int] | None, Option(help="Only these numbers of texts (repeatable).")] = None,
    draw: Annotated[list[int] | None, Option(help="Only these draws of texts (repeatable).")] = None,
    way: Annotated[list[str] | None, Option(help="Only these ways of training (repeatable).")] = None,
    results: ResultsFolder = Path("results/sizes"),
) -> None:
    """Train on 50 to 3,000 labelled texts in several ways; what has a result already is passed over."""
    check_folder(results)
    from experiments.sizes import DATA, DRAWS, LARGEST, SIZES, WAYS, Cell, run_cells
    from sentimoe_cli.show import prepare_process

    prepare_process()
    cells = [
        Cell(name, count, number, which)
        for number in draw or DRAWS
        for count in size or SIZES
        for which in way or WAYS
        for name in data or DATA
        if count <= LARGEST.get(which, count)
    ]
    run_cells(cells, results, data_root, say)


@app.command("many-texts")
def many_texts(
    data_root: DataRoot,
    size: Annotated[list[int] | None, Option(help="Only these numbers of texts (repeatable).")] = None,
    seed: Annotated[list[int] | None, Option(help="Only these seeds (repeatable).")] = None,
    row: Annotated[list[str] | None, Option(help="Only these kinds of students (repeatable).")] = None,
    work: Annotated[Path, Option(help="Folder for the answers of teachers.")] = Path("runs/many-texts"),
    results: ResultsFolder = Path("results/many-texts"),
) -> None:
    """Teach small models on 3,000 to 92,000 texts without labels, with experts and without; processes may share it."""
    check_folder(results)
    check_folder(work)
    from experiments.many_texts import BATCH_SIZES, ROWS, SEEDS, Cell, Study
    from sentimoe_cli.show import prepare_process
    from sentimoe_cli.stopping import stopped_by_signals

    prepare_process()
    cells = [
        Cell(kind, count, number) for number in seed or SEEDS for count in size or BATCH_SIZES for kind in row or ROWS
    ]
    with stopped_by_signals("python -m experiments") as stop:
        Study(data_root, work, results, say, stop).run(cells)


@app.command("domains")
def domains(
    data_root: DataRoot,
    work: Annotated[Path, Option(help="Folder for the data of single domains.")] = Path("runs/domains"),
    results: ResultsFolder = Path("results"),
) -> None:
    """Write the data sets of single domains for experiments/studies/domains.yaml, and train experts chosen per text."""
    check_folder(results)
    check_folder(work)
    from experiments.domains import per_text, write_domains
    from sentimoe_cli.show import prepare_process

    prepare_process()
    write_domains(data_root, work / "data", results)
    for number in (0, 1, 2):
        per_text(number, work / "data", results, say)


@app.command("add-domains")
def add_domains(
    data_root: DataRoot,
    seed: Annotated[list[int] | None, Option(help="Of base and tops (repeatable); 0 first. [0]")] = None,
    rivals: Annotated[
        bool, Option("--rivals", help="Also train the whole model, on each domain in turn and on all anew.")
    ] = False,
    work: Annotated[Path, Option(help="Folder for data, bases and tops.")] = Path("runs/domains"),
    results: ResultsFolder = Path("results"),
) -> None:
    """Add domains to a classifier one by one, in two kinds and several orders; what is trained already is kept."""
    check_folder(results)
    check_folder(work)
    from experiments.added_domains import Study
    from experiments.added_rivals import run_rivals
    from sentimoe_cli.show import prepare_process
    from sentimoe_cli.stopping import stopped_by_signals

    prepare_process()
    with stopped_by_signals("python -m experiments") as stop:
        for number in seed or [0]:
            study = Study(data_root, work, results, say, number, stop)
            study.run()
            if rivals:
                run_rivals(study)


@app.command("one-trunk")
def one_trunk(
    data_root: DataRoot,
    work: Annotated[Path, Option(help="Folder for data and models.")] = Path("runs/one-trunk"),
    results: ResultsFolder = Path("results"),
) -> None:
    """Train one model of four label sets beside four models; what is trained already is kept. The machine idle."""
    check_folder(results)
    check_folder(work)
    from experiments.one_trunk import Study
    from sentimoe_cli.show import prepare_process
    from sentimoe_cli.stopping import stopped_by_signals

    prepare_process()
    with stopped_by_signals("python -m experiments") as stop:
        Study(data_root, work, results, say, stop).run()


@app.command("compression")
def compression(
    data_root: DataRoot,
    case: Annotated[list[str] | None, Option(help="Only these cases (repeatable).")] = None,
    seed: Annotated[list[int] | None, Option(help="Seeds (repeatable). [0]")] = None,
    work: Annotated[Path, Option(help="Folder for the models.")] = Path("runs/compression"),
    results: ResultsFolder = Path("results/compression"),
) -> None:
    """Compress trained classifiers and measure them on test texts; what has a result already is passed over."""
    check_folder(results)
    check_folder(work)
    from experiments.compression import CASES, run_case
    from sentimoe_cli.show import prepare_process

    prepare_process()
    for name in case or CASES:
        _check_case(name)
        for number in seed or (0,):
            run_case(name, number, data_root=data_root, work=work, results=results, progress=say)


def _check_case(name: str) -> None:
    from experiments.compression import CASES

    if name not in CASES:
        raise Mistake(f"there is no case {name!r}; there are {', '.join(CASES)}")


@app.command("levers")
def levers(
    data_root: DataRoot,
    case: Annotated[str, Option(help="A case of `compression`.")] = "tweets",
    seed: Annotated[int, Option(help="Its seed.")] = 0,
    work: Annotated[Path, Option(help="Folder for the models, with those of `compression`.")] = Path(
        "runs/compression"
    ),
    results: ResultsFolder = Path("results/compression"),
    exits: Annotated[
        list[str] | None,
        Option(help="Layers with an exit, such as 1,2,4 (repeatable): measure these in 8 bits, and nothing else."),
    ] = None,
) -> None:
    """Measure early exits, 8 bits and split experts, alone and together. The machine should be idle."""
    check_folder(results)
    if bad := [each for each in exits or () if not re.fullmatch(r"\d+(,\d+)*", each)]:
        raise Mistake(f"--exits {bad[0]}: give layers with commas between them, such as 1,2,4")
    from experiments.levers import measure
    from sentimoe_cli.show import prepare_process

    prepare_process()
    _check_case(case)
    sets = [tuple(map(int, each.split(","))) for each in exits or ()]
    measure(case, seed, data_root=data_root, work=work, results=results, progress=say, exits=sets)


@app.command("students")
def students(
    data_root: DataRoot,
    case: Annotated[str, Option(help="A case of `compression`.")] = "tweets",
    seed: Annotated[int, Option(help="Its seed.")] = 0,
    work: Annotated[Path, Option(help="Folder for the models, with those of `compression`.")] = Path(
        "runs/compression"
    ),
    results: Annotated[Path, Option(help="Folder for the record.")] = Path("results/bench"),
) -> None:
    """Measure a compressed model beside smaller students and other tools. The machine should be idle."""
    check_folder(results)
    from experiments.students import compare
    from sentimoe_cli.show import prepare_process

    prepare_process()
    _check_case(case)
    compare(case, seed, data_root=data_root, work=work, results=results, progress=say)


@app.command("train")
def train(
    study: Annotated[Path, typer.Argument(help="Study file, such as experiments/studies/paper.yaml.")],
    run: Annotated[str, typer.Argument(help="Name of one of its runs, like its file in results/runs/.")],
    data_root: OptionalDataRoot = None,
    results: Annotated[Path, Option(help="Folder with the learning-rate trials.")] = Path("results"),
    models: Annotated[Path, Option(help="Folder for the model, in a subfolder named like the run.")] = Path(
        "runs/models"
    ),
) -> None:
    """Train one run of a study again and keep its weights."""
    check_folder(models)
    from filelock import Timeout

    from experiments.runner import Trainer
    from experiments.study_file import read_study
    from sentimoe.errors import ConfigError
    from sentimoe_cli.show import prepare_process
    from sentimoe_cli.stopping import stopped_by_signals

    prepare_process()
    declared = read_study(study)
    found = next((each for each in declared if each.name == run), None)
    if found is None:
        raise ConfigError(f"{study} declares no run {run!r}; names are such as {declared[0].name!r}")
    try:
        with stopped_by_signals("python -m experiments") as stop:
            trainer = Trainer(declared, results, data_root, models, say, stop)
            typer.echo(str(trainer.kept(found)))
    except Timeout as busy:
        raise ConfigError(f"another process is training {run} or what it needs; wait for its end") from busy


@app.command("cost")
def cost(
    study: Annotated[Path, typer.Argument(help="Study file, such as experiments/studies/paper.yaml.")],
    data: Annotated[str, Option(help="A data set of the study.")],
    model: Annotated[str, Option(help="A model of the study.")],
    data_root: OptionalDataRoot = None,
    results: ResultsFolder = Path("results"),
    rounds: Annotated[int, Option(help="Number of turns of each method.", min=3)] = 9,
) -> None:
    """Measure throughput and peak memory of every method on one data set and model. The machine should be idle."""
    check_folder(results)
    from experiments.costs import measure, rows_of
    from experiments.study_file import read_study
    from sentimoe.errors import ConfigError
    from sentimoe_cli.show import prepare_process

    prepare_process()
    declared = read_study(study)
    if not rows_of(declared, data, model):
        raise ConfigError(f"{study} declares no default run of {model} on {data}")
    measure(declared, data, model, results, data_root, say, rounds)


@app.command("ready-models")
def ready_models(
    data_root: DataRoot,
    names: Annotated[list[str] | None, typer.Argument(help="Which of them. [all]")] = None,
    results: Annotated[Path, Option(help="Folder for the records.")] = Path("results/ready"),
    work: Annotated[Path, Option(help="Folder for the training runs.")] = Path("runs/ready"),
    target: Annotated[Path, Option(help="Folder for the models themselves.")] = Path("src/sentimoe_ready"),
) -> None:
    """Train, pack and measure the models that come with the package; what is done already is not done again."""
    check_folder(work)
    from experiments.ready import make, recipes
    from sentimoe.errors import ConfigError
    from sentimoe_cli.show import prepare_process
    from sentimoe_cli.stopping import stopped_by_signals

    prepare_process()
    if unknown := sorted(set(names or ()) - set(recipes())):
        raise ConfigError(f"there is no ready model {unknown[0]!r}; choose among {', '.join(recipes())}")
    places = {"data_root": data_root, "work": work, "results": results, "target": target}
    with stopped_by_signals("python -m experiments ready-models") as stop:
        for name in names or recipes():
            make(name, **places, progress=say, stop=stop)


@app.command("render")
def render(
    results: Annotated[Path, Option(help="Folder with the results.")] = Path("results"),
    docs: Annotated[Path, Option(help="Folder for the pages and their figures.")] = Path("docs"),
    readme: Annotated[Path, Option(help="README whose results are written between its marks.")] = Path("README.md"),
) -> None:
    """Write docs/results.md, the other rendered pages, their pictures and the README's results from the results alone."""
    check_folder(docs)
    from experiments.render import render as write

    write(results, docs, readme)
    typer.echo(f"written to {docs / 'results.md'}")


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1:], app, "python -m experiments"))
