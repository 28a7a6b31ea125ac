"""`make torture-processes`: kill one of two training processes; the run must end bit for bit as an undisturbed one.

A gated mixture of experts is trained on 320 real tweets by two processes of torchrun. Again and again one of them is
killed, or the launcher is asked to stop, at a random moment; the other one must end with exit code 75, and the same
command with `--resume` goes on, until the run ends. The record goes to
`results/reliability/torture-processes.json` and from there into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import yaml
from torture import prepare, settings, told_of

from sentimoe.machine import hardware, versions
from sentimoe.records import write_json, write_text

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "results" / "reliability" / "torture-processes.json", ROOT / "docs" / "reliability.md"
MARKS = ("<!-- torture-processes -->", "<!-- /torture-processes -->")
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
RANK = re.compile(r"rank\s*: (\d)[^\n]*\n\s*exitcode\s*: (-?\d+)")
BUG = re.compile(r'File "[^"]*/sentimoe')  # in a traceback of a process that trains
STOPPED = 75


class TortureError(Exception):
    """A run ended otherwise than the undisturbed one, or a process ended as it must not."""


def start(work: Path, folder: Path) -> subprocess.Popen[str]:
    """Begin the run, or go on with it."""
    told = ["train", "--config", str(work / "config.yaml"), "--output", str(folder), "--quiet", "--resume"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*LAUNCHER, "-m", "sentimoe", *told], start_new_session=True, **pipes)


def workers(launcher: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """The two processes that train, by their rank, once both are there."""
    while launcher.poll() is None:
        found = {}
        for child in psutil.Process(launcher.pid).children(recursive=True):
            try:
                found[int(child.environ()["RANK"])] = child
            except (KeyError, psutil.Error):
                continue
        if len(found) == 2:
            return found
        time.sleep(0.05)
    return {}


def disturbed(work: Path, folder: Path, what: str, chance: random.Random) -> dict[str, Any] | None:
    """Go on with the run and disturb it; what came of it, or None where it ended before."""
    launcher = start(work, folder)
    both = workers(launcher)
    time.sleep(chance.uniform(2, 14))  # torch is imported, data are read, then the steps
    if launcher.poll() is None:
        if what == "asked":
            launcher.send_signal(signal.SIGTERM)
        else:
            both[int(what[-1])].kill()
    began = time.monotonic()
    said, _ = launcher.communicate(timeout=120)
    if launcher.returncode == 0:
        return None
    seconds = round(time.monotonic() - began, 1)
    codes = {int(rank): int(code) for rank, code in RANK.findall(said)}  # of those that failed
    other = None if what == "asked" else codes.get(1 - int(what[-1]), 0)  # 0: the first one went on alone
    if BUG.search(said) or other not in (None, 0, STOPPED):
        raise TortureError(said)
    return {"what": what, "other": other, "launcher": launcher.returncode, "seconds": seconds}


def main() -> int:
    """Disturb as many times as told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    told = parser.parse_args()
    began, trials, same = time.monotonic(), [], 0
    with tempfile.TemporaryDirectory(prefix="torture-") as temporary:
        work = Path(temporary)
        prepare(work, 320)
        (work / "config.yaml").write_text(yaml.safe_dump(settings(work).to_dict() | {"epochs": 12, "patience": 0}))
        if start(work, work / "undisturbed").wait():
            raise TortureError("the undisturbed run does not end")
        while len(trials) < told.trials or (work / "run").exists():
            number = len(trials)
            if number < told.trials:
                what = ("killed 0", "killed 1", "asked")[number % 3]
                found = disturbed(work, work / "run", what, random.Random(number))
            elif start(work, work / "run").wait():
                raise TortureError("the run does not end")
            else:
                found = None
            if found is not None:
                trials.append(found)
                print(found, flush=True)
            elif told_of(work / "run") != told_of(work / "undisturbed"):
                raise TortureError("the run ended otherwise than the undisturbed one")
            else:
                same += 1
                shutil.rmtree(work / "run")
    record = {"trials": trials, "ended_the_same": same, "seconds": round(time.monotonic() - began)}
    write_json(RESULTS, record | {"versions": versions(), "hardware": hardware()})
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(MARKS[0])[0], page.partition(MARKS[1])[2]
    write_text(PAGE, f"{before}{MARKS[0]}\n{told_in_words(record)}\n{MARKS[1]}{after}")
    return 0


def told_in_words(record: dict[str, Any]) -> str:
    """The results for the page."""
    killed = [row for row in record["trials"] if row["what"] != "asked"]
    codes = Counter(row["other"] for row in killed)
    ended = ", ".join(f"{code}: {count} times" for code, count in codes.items())
    slowest = max((row["seconds"] for row in killed), default=0)
    asked = len(record["trials"]) - len(killed)
    return (
        f"{len(killed)} kills of one process of two, {asked} requests to the launcher to stop. Exit codes of the other "
        f"process after a kill: {ended}; the launcher had ended after {slowest} seconds at most. "
        f"{record['ended_the_same']} runs reached their end, each bit for bit like the undisturbed one."
    )


if __name__ == "__main__":
    sys.exit(main())
