"""`sentimoe bench`: how fast a trained model is beside its dense model, and beside other tools."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from .messages import Mistake, say
from .options import Delimiter, Encoding, LabelColumn, MapLabels, Strict, TextColumn
from .places import check_data, check_file, check_model

Option = typer.Option
ROUNDS = 9


def bench(
    dense_model: Annotated[
        str,
        typer.Argument(
            metavar="DENSE",
            help="Run folder of the dense model, or a ready model; with --scale the folder of any model.",
        ),
    ],
    experts_model: Annotated[
        str | None, typer.Argument(metavar="EXPERTS", help="Run folder of the model with experts made from it.")
    ] = None,
    data: Annotated[str, Option(help="A preset, folder or file with labels.")] = "tweets",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    map_labels: MapLabels = None,
    strict: Strict = False,
    mix: Annotated[
        list[str] | None, Option(help="More data whose texts are shuffled in, for speed alone (repeatable).")
    ] = None,
    limit: Annotated[int | None, Option(help="Only that many texts of each data set, at random.", min=16)] = None,
    backend: Annotated[
        list[str] | None, Option(help="torch or openvino (repeatable). [all that are installed]")
    ] = None,
    dial: Annotated[bool, Option("--dial", help="F1 and texts/s for each number of experts per token.")] = False,
    peers: Annotated[bool, Option("--peers", help="Other tools that are installed, beside ours.")] = False,
    peer: Annotated[
        list[str] | None, Option(help="With --peers: only tools whose name contains this (repeatable).")
    ] = None,
    compressed: Annotated[
        list[Path] | None, Option(help="With --peers: a folder of `sentimoe compress`, beside them (repeatable).")
    ] = None,
    scale: Annotated[
        bool, Option("--scale", help="Texts/s of the engine and of a bulk job, and memory, over many texts.")
    ] = False,
    scale_texts: Annotated[
        list[int] | None, Option(help="With --scale: how many (repeatable). [10,000 and 100,000]", min=16)
    ] = None,
    ray_actors: Annotated[
        list[int] | None, Option(help="With --scale: a job on that many actors of Ray, beside it (repeatable).", min=1)
    ] = None,
    rounds: Annotated[int | None, Option(help="How often each takes its turn. [9; not with --scale]", min=3)] = None,
    output: Annotated[
        Path | None, Option(help="JSON file to write. [bench-compare.json, bench-dial.json, ...]")
    ] = None,
    overwrite: Annotated[bool, Option(help="Replace a file that exists.")] = False,
) -> None:
    """Measured in turns in one process, same texts, precision and threads; wants a quiet machine.

    Without --dial, --peers or --scale: both models on every backend, texts/s and memory, beside the FLOP ratio. Every
    row of a file that has a text and a label is read; of a preset or a folder the test texts.
    """
    if dial + peers + scale > 1:
        raise Mistake("choose one of --dial, --peers and --scale; each has a record of its own")
    if peer and not peers:
        raise Mistake("--peer chooses among the tools of --peers; add --peers")
    if compressed and not peers:
        raise Mistake("--compressed stands beside the tools of --peers; add --peers")
    if peers and backend:
        raise Mistake("with --peers, each tool has its own engine; leave --backend out, and choose with --peer")
    if (dial or scale) and len(backend or ()) > 1:
        raise Mistake(f"--{'dial' if dial else 'scale'} measures one backend; give --backend once")
    if scale and rounds is not None:
        raise Mistake("--scale measures each number of texts once; leave --rounds out")
    if scale and experts_model is not None:
        raise Mistake(f"--scale measures one model, with experts or without; give {dense_model} or {experts_model}")
    if repeated := [each for each, count in Counter(path.name for path in compressed or ()).items() if count > 1]:
        raise Mistake(f"two compressed folders are called {repeated[0]}, so their rows could not be told apart")
    if (scale_texts or ray_actors) and not scale:
        raise Mistake("--scale-texts and --ray-actors say how --scale is done; add --scale")
    if experts_model is None and not (peers or scale):
        raise Mistake("give two models: the dense model, and the model with experts that was made from it")
    what = next((name for name, wanted in (("dial", dial), ("peers", peers), ("scale", scale)) if wanted), "compare")
    output = output or Path(f"bench-{what}.json")
    check_file(output, (".json",), overwrite)
    check_model(dense_model, experts_model)
    check_data(data, *(mix or ()))
    from importlib.util import find_spec

    from sentimoe.bench import peers as others
    from sentimoe.bench import scale as many
    from sentimoe.bench import speed, tools
    from sentimoe.data import SeenTexts
    from sentimoe.errors import ConfigError
    from sentimoe.inference import BACKENDS
    from sentimoe.model_folder import COMPRESSED, find_folder
    from sentimoe.ready import is_ready
    from sentimoe.records import write_json

    from .labelled import read_labelled
    from .seen import seen_among, seen_warning
    from .show import bench_lines, bench_table, prepare_process, print_tables

    prepare_process()
    for folder in compressed or ():
        if not (folder / COMPRESSED).is_file():
            raise ConfigError(
                f"{folder} is not a compressed model; make one with `sentimoe compress {dense_model} ...`"
            )
    folders = {name: find_folder(name) for name in (dense_model, experts_model) if name is not None}
    for name, folder in folders.items():
        streams = scale and (folder / COMPRESSED).is_file()
        if not (streams or is_ready(folder) or (folder / "config.json").is_file()):
            raise ConfigError(f"{name} is not a trained model (it has no config.json); give the folder of a run")
    dense, experts = folders[dense_model], None if experts_model is None else folders[experts_model]
    if peers and not (dense / "config.yaml").is_file():
        raise ConfigError(
            f"--peers trains other tools on the texts of the dense model, and {dense_model} has no config.yaml that "
            "names them; give a run folder"
        )
    found = read_labelled(
        data, None, text_column, label_column, delimiter, encoding, strict, None, map_labels, model=str(dense)
    )
    more = [read_labelled(each, None, None, None, None, None, strict) for each in mix or ()]
    names = speed.load(dense, "torch").label_names if scale else speed.labels_of_pair(dense, experts)
    if not more:
        found = replace(found, dataset=found.dataset.with_labels_of(names))
    parts = [each.part if limit is None else each.part.sample(limit) for each in (found, *more)]
    texts = speed.BenchTexts.of(
        " + ".join(each.dataset.name for each in (found, *more)),
        parts[0],
        names,
        [text for part in parts[1:] for text in part.texts],
    )
    if dial and texts.labels is None:
        raise ConfigError("--dial draws F1 against speed, and --mix adds texts for speed alone; leave one out")
    for warning in found.dataset.warnings:
        say(f"warning: {warning}")
    for name, folder in folders.items():
        if (seen := seen_among(SeenTexts.load(folder), parts[0].texts)).any():
            say(f"warning: {seen_warning(name, seen, 'so its F1 is too high; speed is not affected')}")
    compared = experts or dense
    backends = backend or [each for each in BACKENDS if each == "torch" or find_spec(each) is not None]

    turns = rounds or ROUNDS
    if peers:
        compared_with = [*tools.named(peer or []), *map(tools.compressed_peer, compressed or ())]
        measured = others.compare_peers(dense, experts, texts, say, turns, compared_with)
    elif scale:
        measured = many.scale(dense, texts, backends[-1], say, scale_texts or many.COUNTS, ray_actors or ())
    elif dial:
        measured = speed.dial(compared, dense, texts, backends[-1], say, turns)
    else:
        measured = speed.compare(compared, dense, texts, backends, say, turns)
    write_json(output, measured)
    print_tables(bench_table(measured))
    for line in bench_lines(measured):
        typer.echo(line)
    typer.echo(f"written to {output}")
