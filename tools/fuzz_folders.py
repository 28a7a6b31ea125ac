"""`make fuzz`: damage tiny model folders in every way that we know, and see that none answers otherwise.

Each trial copies a folder of one family, damages it (`folder_damage.py`), and loads it. It ends in one of sentimoe's
own errors or in the answers of the whole folder (within 1e-6); other answers, any other error, a trial without end and
code that ran are failures. Half of the folders get a manifest made after the damage, so that what hashes would find is
left to the other checks; values of weights are not changed there, which nothing else could notice. A trial is its seed,
so that a failure can be repeated: `--seeds 17 18`. Trials are logged, and a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from folder_damage import DAMAGES, FAMILIES, MANIFEST, MARKER
from transformers import BertConfig, BertModel, BertTokenizer, LlamaConfig, LlamaModel

from sentimoe import MoEConfig, SentimentClassifier, load_classifier, upcycle
from sentimoe.errors import ExitCode, SentiMoEError
from sentimoe.manifest import write_manifest
from sentimoe.methods import adapt, save_adapted
from sentimoe.records import write_json, write_text
from sentimoe.upcycle import moe_layers

ROOT = Path(__file__).parents[1]
LOG, PAGE = ROOT / "runs/fuzz_folders.jsonl", ROOT / "docs/reliability.md"
RESULTS = ROOT / "results/reliability/fuzz_folders.json"
MARKS = ("<!-- fuzz folders -->", "<!-- /fuzz folders -->")
WORDS = [
    "the",
    "thing",
    "is",
    "great",
    "awful",
    "broken",
    "it",
    "was",
    "a",
    "best",
    "not",
    "so",
    "very",
    "movie",
    "phone",
]
TEXTS = [
    "the movie was great",
    "",
    "awful",
    "it was a very Broken thing " * 9,
    "xyz so , not THE best!",
    "best phone",
]
LABELS = ["bad", "good", "so-so"]
SECONDS = 30  # of one trial
TOLERANCE = 1e-6
PER_WORKER = 500
REFUSED, USAGE, SAME, ANOTHER = "refused", "refused as wrong use", "the same answers", "another model"
FAILED = "FAILED: "  # begins every other outcome


def build(root: Path) -> None:
    """Write a whole folder of every family below `root`."""
    torch.manual_seed(0)
    letters = [*"abcdefghijklmnopqrstuvwxyz,!"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *WORDS]
    tokenizer = BertTokenizer({piece: index for index, piece in enumerate(pieces)}, model_max_length=24)
    shape = {"vocab_size": len(pieces), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"intermediate_size": 24, "max_position_embeddings": 64, "pad_token_id": 0}
    backbones = {"bert": BertModel(BertConfig(**shape)), "llama": LlamaModel(LlamaConfig(**shape))}
    for name, backbone in backbones.items():
        for parameter in backbone.parameters():
            torch.nn.init.normal_(parameter, std=0.3)  # so large that a wrong tensor moves the answers
        backbone.save_pretrained(root / "backbones" / name)

    def fresh(head: str = "mean", backbone: str = "bert") -> Any:
        model = load_classifier(str(root / "backbones" / backbone), LABELS, head=head)
        for name, parameter in model.named_parameters():
            if "classifier" in name or "score" in name:
                torch.nn.init.normal_(parameter)
        return model

    moe = upcycle(fresh(), MoEConfig(num_experts=3, num_experts_per_tok=1, layers_to_transform=[-1]))
    for layer in moe_layers(moe):
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    models = {"dense": fresh(), "moe": moe, "plain": fresh("native"), "decoder": fresh("native", "llama")}
    models |= {"lora": adapt(fresh("native"), "lora"), "p-tuning": adapt(fresh(), "p-tuning")}
    for name, parameter in models["lora"].named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    for name, model in models.items():
        save_adapted(model.eval(), tokenizer, root / name)
    SentimentClassifier.from_pretrained(root / "moe", precision="float32").export(root / "export")


def answers(folder: Path) -> Any:
    """What the classifier in a folder answers to the texts, with its labels."""
    classifier = SentimentClassifier.from_pretrained(folder, precision="float32")
    return classifier.label_names, classifier.predict_proba(TEXTS)


# One trial


def trial(seed: int, root: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Damage a copy of a folder and load it. What came of it, as a JSON object."""
    rng = random.Random(seed)
    family, how = rng.choice(FAMILIES), None
    folder = root / "trial" / "model"
    while how is None:
        shutil.rmtree(root / "trial", ignore_errors=True)
        shutil.copytree(root / family, folder)
        damage = rng.choice(DAMAGES)
        how = damage.apply(rng, folder, root)
    fresh = damage.renewable and rng.random() < 0.5
    if fresh:
        renew_manifests(folder)
    outcome, detail = _tried(folder, *expected[family])
    if outcome == FAILED + "other answers" and fresh and damage.silent:
        outcome = ANOTHER
    if (root / MARKER).exists():
        (root / MARKER).unlink()
        outcome = FAILED + "code ran"
    found = {"seed": seed, "family": family, "damage": damage.name, "how": how, "fresh_manifest": fresh}
    return found | {"outcome": outcome, "detail": " ".join(detail.split())[:300]}


def _tried(folder: Path, labels: list[str], expected: np.ndarray) -> tuple[str, str]:
    """The outcome of loading and asking a folder, and more words on it."""
    try:
        with time_limit(SECONDS):
            names, given = answers(folder)
    except SentiMoEError as error:
        return (REFUSED if error.exit_code == ExitCode.MODEL else USAGE), str(error)
    except TimeoutError:
        return f"{FAILED}no end in {SECONDS} s", ""
    except Exception as error:  # noqa: BLE001 what a user would see as a traceback
        return f"{FAILED}a raw error", f"{type(error).__name__}: {error}"
    same = names == labels and given.shape == expected.shape
    if same and np.allclose(given, expected, rtol=0, atol=TOLERANCE, equal_nan=True):
        return SAME, ""
    return f"{FAILED}other answers", f"{names} {given[0].tolist()}"


def renew_manifests(folder: Path) -> None:
    """Manifests of what is there after the damage, as a save would write them."""
    for place in (folder / "base", folder):
        if place.is_dir() and not place.is_symlink():
            (place / MANIFEST).unlink(missing_ok=True)
            listed = [path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()]
            write_manifest(place, [name for name in listed if not name.endswith((".md", ".py"))])


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the main thread when the block takes longer."""

    def late(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# Many trials


def run(seeds: Sequence[int], say: Callable[[dict[str, Any]], None]) -> None:
    """Do the trials of these seeds in this process, each told to `say`."""
    from transformers.utils import logging

    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        build(root)
        expected = {family: answers(root / family) for family in FAMILIES}
        for seed in seeds:
            say(trial(seed, root, expected))


def trials(seeds: Sequence[int], minutes: float) -> Iterator[dict[str, Any]]:
    """Trials in processes of their own, the next of which takes over from one that a trial killed."""
    left, end, died_at_once = list(seeds), time.monotonic() + 60 * minutes, 0
    while left and time.monotonic() < end:
        part, done = left[:PER_WORKER], 0
        command = [sys.executable, __file__, "--worker", "--seeds", *map(str, part)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            for line in worker.stdout:
                done += 1
                yield json.loads(line)
        if done < len(part):
            died_at_once = died_at_once + 1 if done == 0 else 0
            if died_at_once == 3:
                raise SystemExit("three processes died in their first trial: the harness itself is at fault")
            nothing = {"seed": part[done], "damage": "", "how": "", "fresh_manifest": False, "detail": ""}
            yield nothing | {"outcome": f"{FAILED}the process died ({worker.returncode})"}
            done += 1
        left = left[done:]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for each kind of damage, columns for what came of it under either manifest."""
    counts = Counter((row["damage"], row["fresh_manifest"], _column(row["outcome"])) for row in rows)
    columns = [(False, REFUSED), (False, SAME), (True, REFUSED), (True, SAME), (True, ANOTHER)]
    lines = [
        "| damage | trials | refused | same answers | new manifest: refused | same answers | another model | failed |",
        "|---|" + "---:|" * 7,
    ]
    names = [damage.name for damage in DAMAGES]
    for title, group in [*((name, [name]) for name in names), ("**all**", ["", *names])]:
        cells = [sum(counts[name, *column] for name in group) for column in columns]
        failed = sum(counts[name, fresh, FAILED] for name in group for fresh in (False, True))
        lines.append(f"| {title} | {' | '.join(f'{each:,}' for each in (sum(cells) + failed, *cells, failed))} |")
    return "\n".join(lines)


def _column(outcome: str) -> str:
    return FAILED if outcome.startswith(FAILED) else REFUSED if outcome == USAGE else outcome


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Keep the counts, and put the table where the page has its marks."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    kinds = [(row["damage"], "new manifest" if row["fresh_manifest"] else "as saved", row["outcome"]) for row in rows]
    counts = Counter(map(", ".join, kinds))
    write_json(RESULTS, {"trials": len(rows), "counts": dict(sorted(counts.items()))})
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    write_text(PAGE, f"{before}{MARKS[0]}\n{table(rows)}\n{MARKS[1]}{after}")


def read(log: Path) -> list[dict[str, Any]]:
    """The trials in a log, without a last line that was cut short."""
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def main() -> int:
    """Do what is missing of so many trials. 1: one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000, help="of the seeds from 0")
    parser.add_argument("--seeds", type=int, nargs="*", help="only these, shown and not logged")
    parser.add_argument("--minutes", type=float, default=600, help="start nothing after this time; run again to go on")
    parser.add_argument("--log", type=Path, default=LOG, help="remove it to begin anew")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} and the table of {PAGE.name}")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.worker:
        run(told.seeds, lambda row: print(json.dumps(row), flush=True))
        return 0
    rows = [] if told.seeds else read(told.log)
    known = {row["seed"] for row in rows}
    told.log.parent.mkdir(parents=True, exist_ok=True)
    for row in trials(told.seeds or [seed for seed in range(told.trials) if seed not in known], told.minutes):
        rows.append(row)
        if told.seeds or row["outcome"].startswith(FAILED):
            print(json.dumps(row), flush=True)
        if not told.seeds:
            with told.log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
    print(table(rows))
    if told.write:
        write(rows)
    return int(any(row["outcome"].startswith(FAILED) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
