"""`make torture`: disturb a small real training in every way; it must end bit for bit as an undisturbed one.

A gated mixture of experts is trained on 320 real tweets, saved after every second step. It is killed while it saves and
at any other time, its writes fail (ENOSPC, EIO, a limit on the size of files for what is written outside Python), its
newest checkpoint is damaged, and two processes go on with it at once. Every disturbance meets what the ones before it
left; a run that comes to its end is compared with the undisturbed one, its weights, metrics, and whole history but the
times, and the next one begins. `results/reliability/torture.json` is written after every trial, so that a torture that
was stopped goes on.
"""

from __future__ import annotations

import argparse
import errno
import gc
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerBase

from sentimoe.data.tweets import TWEET_LABELS, load_tweets
from sentimoe.errors import SentiMoEError
from sentimoe.machine import hardware, versions
from sentimoe.records import read_json, write_json, write_text
from sentimoe.training import TrainConfig, train
from sentimoe.training.checkpoints import newest_first
from sentimoe.training.trainer import SentimentTrainer
from sentimoe.upcycle import backbone_path, load_classifier

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "results" / "reliability" / "torture.json", ROOT / "docs" / "reliability.md"
MARKS = ("<!-- torture -->", "<!-- /torture -->")
TRIES = 50  # a run may end before a disturbance comes to it; then the next one may not
SAVES, ENDS, STEP = b"s", b"e", b"t"  # what a process says of itself: it begins to save, has saved, does a step
NATIVE = ("model", "tokenizer", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "progress.pt")
Hook = Callable[[str, bool], None]  # is told every write to the run folder before it is done, and whether it saves


class TortureError(Exception):
    """A run ended otherwise than the undisturbed one, or a process ended as it must not."""


# --- what is trained


def prepare(work: Path, texts: int) -> None:
    """Write so many tweets to train on, and a backbone of two small layers with a real vocabulary."""
    (work / "data").mkdir(parents=True)
    for split, frame in load_tweets().items():
        part = frame.sample(texts if split == "train" else 80, random_state=0)
        part["label"] = part["label"].map(lambda index: TWEET_LABELS[index])
        part.to_json(work / "data" / f"{split}.jsonl", orient="records", lines=True)
    tokenizer = AutoTokenizer.from_pretrained(backbone_path("all-MiniLM-L6-v2"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(work / "backbone")
    tokenizer.save_pretrained(work / "backbone")


def settings(work: Path) -> TrainConfig:
    """The run: 3 epochs."""
    return TrainConfig(
        model=str(work / "backbone"),
        data=str(work / "data"),
        method="moe-gated",
        method_settings={"layers_to_transform": [-1], "init_noise": 0.05},
        epochs=3,
        batch_size=16,
        max_length=48,
        learning_rate=3e-3,
        precision="float32",
        save_steps=2,
    )


def told_of(folder: Path) -> tuple[Any, ...]:
    """What must be the same: weights, metrics, all logged rows but their times."""
    history = read_json(folder / "run.json")["history"]
    rows = [{k: row[k] for k in row if not k.endswith(("runtime", "per_second"))} for row in history]
    weights = (folder / "model.safetensors").read_bytes()
    return rows, read_json(folder / "metrics.json"), weights


# --- a process that trains


class Process:
    """A process that goes on with the run in a folder, and is instrumented.

    hook: told every write before it is done; what it raises is the write's error. native: the name of something that is
    written outside Python, and the bytes after which its writes fail.
    """

    def __init__(self, work: Path, folder: Path, hook: Hook | None = None, native: tuple[str, int] | None = None):
        self.log, self.said, self.exit = work / "log.txt", b"", None
        self.began = time.monotonic()
        self.pipe, theirs = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self.pipe)
            os._exit(_run(work, folder, theirs, hook, native))
        os.close(theirs)

    def listen(self, seconds: float, until: bytes | None = None) -> bool:
        """Hear what it says for some time; whether it said `until`, which ends that. It may have ended before."""
        end = time.monotonic() + seconds
        while self.exit is None and (left := end - time.monotonic()) > 0:
            if select.select([self.pipe], [], [], left)[0]:
                heard = os.read(self.pipe, 1)
                self.said += heard
                if not heard:
                    self._reap()
                elif heard == until:
                    return True
        return False

    def kill(self) -> int:
        """End it at once; -9, or its exit code when it had ended by itself."""
        if self.exit is None:
            os.kill(self.pid, signal.SIGKILL)
            self.listen(60)
        assert self.exit is not None
        return self.exit

    def wait(self) -> int:
        """Its exit code at its end."""
        self.listen(300)
        return self.kill()

    @property
    def saving(self) -> bool:
        """Whether it was writing a checkpoint when it was last heard of."""
        return self.said.count(SAVES) > self.said.count(ENDS)

    def _reap(self) -> None:
        self.exit = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.pipe)
        if self.exit == 1:
            raise TortureError(f"a process ended with a traceback:\n{self.log.read_text()[-3000:]}")


def _run(work: Path, folder: Path, pipe: int, hook: Hook | None, native: tuple[str, int] | None) -> int:
    with (work / "log.txt").open("w") as log:
        os.dup2(log.fileno(), 2)
    try:
        watch = _instrument(folder, pipe, hook)
        if native is not None:
            _limit(*native, watch)
        train(settings(work), folder, resume=True, progress=False)
        return 0
    except SentiMoEError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return int(error.exit_code)
    except BaseException:  # noqa: BLE001 - told by the exit code
        traceback.print_exc()
        return 1


@dataclass
class Watch:
    """Where a process is: whether it saves a checkpoint, and how many it has saved."""

    saving: bool = False
    saved: int = 0


def _instrument(folder: Path, pipe: int, hook: Hook | None) -> Watch:
    """Have steps and saves told to the pipe, and writes below the folder to the hook."""
    watch, save, step, sync = Watch(), SentimentTrainer._save_checkpoint, SentimentTrainer.training_step, os.fsync

    def saves(self, *args):
        os.write(pipe, SAVES)
        watch.saving = True
        try:
            save(self, *args)
            watch.saved += 1
        finally:
            watch.saving = False
            os.write(pipe, ENDS)

    def steps(self, *args):
        os.write(pipe, STEP)
        return step(self, *args)

    SentimentTrainer._save_checkpoint, SentimentTrainer.training_step = saves, steps
    if hook is not None:

        def audit(event: str, args: tuple) -> None:
            if (name := _write(event, args, str(folder))) is not None:
                hook(name, watch.saving)

        def synced(descriptor: int) -> None:
            audit("os.fsync", (os.readlink(f"/proc/self/fd/{descriptor}"),))
            sync(descriptor)

        os.fsync = synced
        sys.addaudithook(audit)
    return watch


def _write(event: str, args: tuple, folder: str) -> str | None:
    """The name of a write below the folder, without what is random in it; None for anything else."""
    if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.fsync"):
        return None
    path = os.fspath(args[0]) if isinstance(args[0], str | os.PathLike) else ""
    if event == "open" and not (set(args[1] or "") & set("wax+") or args[2] & (os.O_WRONLY | os.O_RDWR)):
        return None
    if not path.startswith(folder) or (event == "os.remove" and not os.path.lexists(path)):
        return None
    name = re.sub(r"[0-9a-f]{32}|(?<=saving-)[^/]+", "X", path.removeprefix(folder))
    name = re.sub(r"\d+", "N", name)
    return f"{event} {name.strip('/')}"


def _limit(name: str, size: int, watch: Watch) -> None:
    """Limit the size of files while the second checkpoint's `name` is written."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def limited(write: Callable, is_it: Callable[..., bool]) -> Callable:
        def writes(*args, **kwargs):
            if watch.saved != 1 or not watch.saving or not is_it(*args):
                return write(*args, **kwargs)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            try:
                return write(*args, **kwargs)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

        return writes

    torch.save = limited(torch.save, lambda thing, path, *rest: Path(path).name == name)
    for kind, owner in (("model", PreTrainedModel), ("tokenizer", PreTrainedTokenizerBase)):
        owner.save_pretrained = limited(owner.save_pretrained, lambda *args, kind=kind: kind == name)


# --- disturbances: each gives a row for the results, or None when the run ended before it could happen

Row = dict[str, Any]
Plan = tuple[str, Callable[..., Row | None], list[Any]]  # a kind of disturbance, what does it, its trials


def kill_in_saving(work: Path, folder: Path, chance: random.Random, number: int) -> Row | None:
    """Kill -9 at any moment of a save; half of them right before one of its writes, in turn, from first to last."""
    if number % 2:
        process = Process(work, folder)
        for _ in range(chance.randint(1, 3)):
            process.listen(60, until=SAVES)
        process.listen(chance.uniform(0, 0.15), until=ENDS)
    else:
        left, write = chance.randint(0, 1) * 60, number // 2 * 2  # a save does some 60 writes
        count = iter(range(left + write, -1, -1))

        def dies(name: str, saving: bool) -> None:
            if saving and next(count) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        process = Process(work, folder, dies)
        process.listen(300)
    code = process.kill()
    return {"exit": code, "saves": process.said.count(SAVES)} if code == -9 and process.saving else None


def kill_between(work: Path, folder: Path, chance: random.Random, number: int) -> Row | None:
    """Kill -9 at any other moment: while data and model are read, in a step, in validation, in the last writes."""
    process = Process(work, folder)
    process.listen(chance.uniform(0.2, 6))
    while process.saving and process.exit is None:
        process.listen(1, until=ENDS)
    code = process.kill()
    return {"exit": code, "steps": process.said.count(STEP)} if code == -9 and not process.saving else None


def failing_writes(work: Path) -> list[tuple[str, int, bool]]:
    """Every write that a run does, once as a full disk and once as an error of the device; whether it is done again."""
    place, seen = work / "watched", work / "writes.txt"

    def notes(name: str, saving: bool) -> None:
        with seen.open("a") as stream:
            stream.write(name + "\n")

    seen.unlink(missing_ok=True)
    if Process(work, place, notes).wait() or told_of(place) != told_of(work / "undisturbed"):
        raise TortureError("a run that is only watched ended otherwise")
    shutil.rmtree(place)
    names = Counter(seen.read_text().splitlines())
    return [(name, error, names[name] > 1) for name in sorted(names) for error in (errno.ENOSPC, errno.EIO)]


def fail_write(work: Path, folder: Path, chance: random.Random, write: tuple[str, int, bool]) -> Row | None:
    """One write fails, the first or the second of its name."""
    name, error, again = write
    left = iter((1, 0) if again and chance.random() < 0.5 else (0,))
    happened = work / "happened"
    happened.unlink(missing_ok=True)

    def fails(found: str, saving: bool) -> None:
        if found == name and next(left, 1) == 0:
            happened.touch()
            raise OSError(error, os.strerror(error), found)

    code = Process(work, folder, fails).wait()
    return {"write": name, "error": errno.errorcode[error], "exit": code} if happened.exists() else None


def fail_native(work: Path, folder: Path, chance: random.Random, what: tuple[str, float]) -> Row | None:
    """What safetensors, tokenizers and torch write by themselves cannot grow beyond a limit of the system."""
    name, share = what
    whole = {"model": 4_000_000, "tokenizer": 700_000, "optimizer.pt": 8_000_000}.get(name, 1000)
    code = Process(work, folder, native=(name, int(share * whole))).wait()
    return {"write": name, "share": share, "exit": code} if code else None


def damage_newest(work: Path, folder: Path, chance: random.Random, number: int) -> Row | None:
    """A file of the newest checkpoint is cut, emptied, deleted, or one bit of it turned; then the run goes on."""
    while len(newest_first(folder / "checkpoints")) < 2:
        if kill_between(work, folder, chance, number) is None:
            return None
    newest = newest_first(folder / "checkpoints")[0]
    file = chance.choice(sorted(path for path in newest.rglob("*") if path.is_file()))
    damage = chance.choice(("cut", "emptied", "deleted", "bit"))
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    if damage == "deleted":
        file.unlink()
    else:
        file.write_bytes({"cut": content[: len(content) // 2], "emptied": b"", "bit": content}[damage])
    process = Process(work, folder)
    process.listen(60, until=STEP)
    process.listen(chance.uniform(0, 2))
    code = process.kill()
    told = f"{newest.name} is passed over" in process.log.read_text()
    if not told:
        raise TortureError(f"{file.name} of {newest.name} was {damage}, and nothing was said")
    return {"file": file.name, "damage": damage, "told": told, "exit": code}


def two_at_once(work: Path, folder: Path, chance: random.Random, number: int) -> Row | None:
    """Two processes go on with the same run: one does, and the other is refused (exit code 2) while it does."""
    both = [Process(work, folder) for _ in range(2)]
    while all(process.exit is None for process in both):
        for process in both:
            process.listen(0.05)
    going = [process for process in both if process.exit is None]
    for process in going:
        process.listen(chance.uniform(0, 4))
    codes = sorted(process.kill() for process in both)
    if codes not in ([-9, 2], [0, 2]):
        raise TortureError(f"two processes went on with one run: they ended with {codes}")
    return {"exits": codes} if going else None


# --- the torture


class Record:
    """The results so far and their file."""

    def __init__(self, path: Path):
        self.path = path
        self.found: dict[str, Any] = (
            read_json(path) if path.exists() else {"kinds": {}, "ended_the_same": 0, "seconds": 0}
        )

    def kind(self, name: str) -> dict[str, Any]:
        """What was found of one kind of disturbance."""
        return self.found["kinds"].setdefault(name, {"trials": [], "exits": {}})

    def write(self) -> None:
        """Write it, with where it was found."""
        for kind in self.found["kinds"].values():
            codes = [code for trial in kind["trials"] for code in trial.get("exits", [trial.get("exit")])]
            kind["exits"] = {str(code): count for code, count in sorted(Counter(codes).items())}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.found | {"versions": versions(), "hardware": hardware()})


def torture(name: str, disturb: Callable[..., Row | None], trials: list[Any], work: Path, record: Record) -> None:
    """Disturb a run until all trials are done, beginning it anew at each of its ends.

    Raises TortureError at the first end that is not that of the undisturbed run.
    """
    kind, folder = record.kind(name), work / "run"
    for number in range(len(kind["trials"]), len(trials)):
        chance = random.Random(f"{name} {number}")
        for _ in range(TRIES):
            row = disturb(work, folder, chance, trials[number])
            record.found["ended_the_same"] += ended(work)
            if row is not None:
                break
        else:
            raise TortureError(f"{name}, {trials[number]}: it never came to it")
        kind["trials"].append(row)
        record.write()
        print(f"{name} {number + 1} of {len(trials)}: {row}", flush=True)


def ended(work: Path) -> bool:
    """Whether the run has come to its end; then it is taken away. Raises TortureError when it is not the same."""
    if not (work / "run" / "run.json").exists():
        return False
    if told_of(work / "run") != told_of(work / "undisturbed"):
        raise TortureError(f"the run in {work / 'run'} ended otherwise than the undisturbed one")
    shutil.rmtree(work / "run")
    return True


@contextmanager
def workplace(given: Path | None, texts: int) -> Iterator[Path]:
    """The folder to work in, a temporary one by default; data, backbone and the undisturbed run are there."""
    with tempfile.TemporaryDirectory(prefix="torture-") as temporary:
        work = given or Path(temporary)
        if not (work / "data").exists():
            prepare(work, texts)
        load_classifier(str(work / "backbone"), TWEET_LABELS)  # fills caches, which the forks then have
        gc.freeze()
        if not (work / "undisturbed" / "run.json").exists() and Process(work, work / "undisturbed").wait():
            raise TortureError((work / "log.txt").read_text())
        yield work


def table(found: dict[str, Any]) -> str:
    """The results for the page."""
    rows = [
        f"| {name} | {len(kind['trials'])} | {', '.join(f'{code}: {n}' for code, n in kind['exits'].items())} |"
        for name, kind in found["kinds"].items()
    ]
    counted = f"{sum(len(kind['trials']) for kind in found['kinds'].values())} disturbances"
    last = f"{counted}, {found['ended_the_same']} runs reached their end, each bit for bit like the undisturbed one."
    return "\n".join(["| disturbance | times | exit codes (-9: killed) |", "|---|---|---|", *rows, "", last])


def everything(work: Path) -> list[Plan]:
    """All kinds of disturbance and their trials."""
    return [
        ("killed while saving", kill_in_saving, list(range(50))),
        ("killed at any other time", kill_between, list(range(50))),
        ("a write fails", fail_write, failing_writes(work)),
        ("a write outside Python fails", fail_native, [(name, share) for name in NATIVE for share in (0.0, 0.5)]),
        ("the newest checkpoint is damaged", damage_newest, list(range(25))),
        ("two processes at once", two_at_once, list(range(10))),
    ]


A_FEW: list[Plan] = [
    ("killed while saving", kill_in_saving, [0, 1]),
    ("two processes at once", two_at_once, [0]),
    ("a write fails", fail_write, [("open checkpoints/partial/checkpoint-N/trainer_state.json", errno.ENOSPC, True)]),
]


def main() -> int:
    """Do what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, help="where to train [a temporary folder]")
    parser.add_argument("--quick", action="store_true", help="a few of each: for the tests")
    told = parser.parse_args()
    torch.set_num_threads(1)  # threads would not live through the forks
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    started, record = time.monotonic(), Record(told.results)
    with workplace(told.work, 48 if told.quick else 320) as work:
        for name, disturb, trials in A_FEW if told.quick else everything(work):
            torture(name, disturb, trials, work, record)
        if (work / "run").exists():
            if Process(work, work / "run").wait() or not ended(work):
                raise TortureError(f"the run in {work / 'run'} does not end: {(work / 'log.txt').read_text()}")
            record.found["ended_the_same"] += 1
    record.found["seconds"] += round(time.monotonic() - started)
    record.write()
    if not told.quick:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.partition(MARKS[0])[0], page.partition(MARKS[1])[2]
        write_text(PAGE, f"{before}{MARKS[0]}\n{table(record.found)}\n{MARKS[1]}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
