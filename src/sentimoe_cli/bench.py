"""`sentimoe bench`: how fast a trained model is beside its dense model, and beside other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .messages import Mistake, say
from .places import check_folder, check_model

Option = typer.Option


def bench(
    dense: Annotated[Path, typer.Argument(help="Run folder of the dense model.")],
    experts: Annotated[Path | None, typer.Argument(help="Run folder of the model with experts made from it.")] = None,
    data: Annotated[str, Option(help="A preset, folder or file; its test texts are measured on.")] = "tweets",
    mix: Annotated[
        list[str] | None, Option(help="More data whose test texts are shuffled in, for speed alone (repeatable).")
    ] = None,
    limit: Annotated[int | None, Option(help="Only that many test texts of each data set.", min=16)] = None,
    backend: Annotated[
        list[str] | None, Option(help="torch or openvino (repeatable). [all that are installed]")
    ] = None,
    dial: Annotated[bool, Option("--dial", help="F1 and texts/s for each number of experts per token.")] = False,
    peers: Annotated[bool, Option("--peers", help="Other tools that are installed, beside ours.")] = False,
    peer: Annotated[
        list[str] | None, Option(help="With --peers: only tools whose name contains this (repeatable).")
    ] = None,
    scale: Annotated[bool, Option("--scale", help="Texts/s and memory at 10,000 and 100,000 texts.")] = False,
    rounds: Annotated[int, Option(help="How often each takes its turn.", min=3)] = 9,
    name: Annotated[str, Option(help="Name of the record; its file is WHAT__NAME.json.")] = "bench",
    results: Annotated[Path, Option(help="Where results are written.")] = Path("results"),
) -> None:
    """Measured in turns in one process, same texts, precision and threads; wants a quiet machine.

    Without --dial, --peers or --scale: both models on every backend, texts/s and memory, beside the FLOP ratio.
    """
    check_folder(results)
    if dial + peers + scale > 1:
        raise Mistake("choose one of --dial, --peers and --scale; each has a record of its own")
    if peer and not peers:
        raise Mistake("--peer chooses among the tools of --peers; add --peers")
    if experts is None and not (peers or scale):
        raise Mistake("give two folders: the dense model, and the model with experts that was made from it")
    if Path(name).name != name:
        raise Mistake(f"--name {name!r} is part of a file name; leave out what makes it a path")
    check_model(dense, experts)
    from importlib.util import find_spec

    from sentimoe.bench import peers as others
    from sentimoe.bench import speed
    from sentimoe.data import load_dataset
    from sentimoe.errors import ConfigError, DataError
    from sentimoe.inference import BACKENDS
    from sentimoe.records import write_json

    from .show import bench_table, prepare_process, print_tables

    prepare_process()
    for folder in filter(None, (dense, experts)):
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{folder} is not a trained model (it has no config.json); give the folder of a run")
    sets = [load_dataset(each) for each in (data, *(mix or ()))]
    if any("test" not in each.splits for each in sets):
        raise DataError("every data set of a benchmark needs a test split")
    tests = [each.splits["test"] if limit is None else each.splits["test"].sample(limit) for each in sets]
    texts = speed.BenchTexts.of(
        " + ".join(each.name for each in sets),
        tests[0],
        sets[0].label_names,
        [t for part in tests[1:] for t in part.texts],
    )
    speed.check_pair(dense, experts, texts)
    if dial and texts.labels is None:
        raise ConfigError("--dial draws F1 against speed, and --mix adds texts for speed alone; leave one out")
    if peers and not (dense / "config.yaml").is_file():
        raise ConfigError(f"{dense} has no config.yaml, which names the backbone for the peers; give a run folder")
    compared = experts or dense
    backends = backend or [each for each in BACKENDS if each == "torch" or find_spec(each) is not None]

    if peers:
        found = others.compare_peers(dense, experts, sets[0], texts, say, rounds, others.named(peer or []))
    elif scale:
        found = speed.scale(compared, texts, backends[-1], say)
    elif dial:
        found = speed.dial(compared, dense, texts, backends[-1], say, rounds)
    else:
        found = speed.compare(compared, dense, texts, backends, say, rounds)
    path = results / "bench" / f"{found['what']}__{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    print_tables(bench_table(found))
    for row in found.get("ratios", ()):
        low, high = row["quartiles"]
        typer.echo(
            f"{row['backend']}: {row['ratio']:.2f} times as fast as the dense model (quartiles {low:.2f} - {high:.2f}); "
            f"the FLOP ratio is {row['flop_ratio']:.2f}"
        )
    typer.echo(f"written to {path}")
