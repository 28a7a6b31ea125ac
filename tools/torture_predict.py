"""`make torture-predict`: kill a bulk job again and again; its output must be that of an undisturbed one, row by row.

A million tweets (repeated, with row numbers, some blank) are labelled by a tiny model to a folder. The job is killed
with SIGKILL at random moments, its writes fail for want of room or with an I/O error, and each time the same command
is given again. At last every part is compared byte for byte, and every row with the input. The same is then done to
smaller jobs that make one file, whose parts are joined and removed in the end. The record goes to
`results/reliability/torture-predict.json` and from there into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from torture import prepare, settings

from sentimoe.batch.journal import JOURNAL
from sentimoe.data.tweets import load_tweets
from sentimoe.machine import hardware, versions
from sentimoe.records import read_json, write_json, write_text
from sentimoe.training import train

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "results" / "reliability" / "torture-predict.json", ROOT / "docs" / "reliability.md"
MARKS = ("<!-- torture-predict -->", "<!-- /torture-predict -->")
STOPPED, REFUSED = 75, 2
BLANK_EVERY = 997
SMALLEST_FILE = 200_000  # bytes after which a write fails, where room is short: less than a part
BROKEN_DISK = """
import errno, os, runpy, sys
synced, sync = 0, os.fsync

def fsync(descriptor):
    global synced
    synced += 1
    if synced > {whole}:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    sync(descriptor)

os.fsync = fsync
runpy.run_module("sentimoe", run_name="__main__")
"""


class TortureError(Exception):
    """A row is missing, there twice, or not the one of an undisturbed job; or a process ended as it must not."""


def write_rows(path: Path, count: int) -> None:
    """Write so many tweets with row numbers, a blank one among them now and then."""
    tweets = load_tweets()["train"]["text"].sample(frac=1, random_state=0).tolist()
    step = 100_000
    for start in range(0, count, step):
        numbers = range(start, min(start + step, count))
        texts = ["" if number % BLANK_EVERY == 0 else tweets[number % len(tweets)] for number in numbers]
        frame = pd.DataFrame({"row": numbers, "text": texts})
        frame["text"] = frame["text"].str.replace("\r", " ")
        frame.to_csv(path, index=False, mode="a", header=start == 0)


def command(work: Path, output: Path) -> list[str]:
    """What a user types."""
    given = work / ("few.csv" if output.suffix else "in.csv")
    told = ["predict", "--model", work / "model", "--input", given, "--output", output]
    return [sys.executable, "-m", "sentimoe", *map(str, told), "--precision", "float32"]


def run_killed(work: Path, output: Path, seconds: float) -> int:
    """Kill the job after some seconds; its exit code when it had ended before, else -9."""
    process = subprocess.Popen(command(work, output), stderr=subprocess.DEVNULL)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def run_without_room(work: Path, output: Path) -> int:
    """From the next finished part on, no file may grow to the size of a part."""
    before = finished_parts(output)
    process = subprocess.Popen(command(work, output), stderr=subprocess.DEVNULL)
    while process.poll() is None and finished_parts(output) <= before:
        time.sleep(0.02)
    if process.poll() is None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (SMALLEST_FILE, SMALLEST_FILE))
    return process.wait()


def run_on_a_broken_disk(work: Path, output: Path, whole: int) -> int:
    """After so many syncs, each fails with an I/O error."""
    python, _, _, *told = command(work, output)
    broken = [python, "-c", BROKEN_DISK.format(whole=whole), *told]
    return subprocess.run(broken, stderr=subprocess.DEVNULL, check=False).returncode


def finished_parts(output: Path) -> int:
    """Parts that the journal lists."""
    path = output / JOURNAL
    if not path.exists():
        return 0
    lines = path.read_bytes().split(b"\n")[1:-1]
    return sum(1 for line in lines if b'"part"' in line)


def compare(work: Path, whole: Path, output: Path) -> int:
    """Compare every file and every row; how many there are. Raises TortureError."""
    names = {path.name for path in whole.iterdir()}
    if names != {path.name for path in output.iterdir()}:
        raise TortureError(f"other files: {sorted(names ^ {path.name for path in output.iterdir()})[:5]}")
    for name in names - {JOURNAL}:
        if (whole / name).read_bytes() != (output / name).read_bytes():
            raise TortureError(f"{name} is not the one of an undisturbed job")
    rows = 0
    given = pd.read_csv(work / "in.csv", dtype=str, na_filter=False, chunksize=200_000)
    parts = (pd.read_csv(path, dtype=str, na_filter=False) for path in sorted(output.glob("part-*")))
    waiting = pd.DataFrame()
    for chunk in given:
        while len(waiting) < len(chunk):
            waiting = pd.concat([waiting, next(parts)], ignore_index=True)
        found, waiting = waiting.iloc[: len(chunk)].reset_index(drop=True), waiting.iloc[len(chunk) :]
        chunk = chunk.reset_index(drop=True)
        if not (found["row"].equals(chunk["row"]) and found["text"].equals(chunk["text"])):
            raise TortureError(f"rows from {rows} on are not those of the input")
        if not ((found["label"] == "") == (chunk["text"] == "")).all():
            raise TortureError(f"rows from {rows} on have labels where there is no text, or none where there is one")
        rows += len(chunk)
    if len(waiting) or next(parts, None) is not None:
        raise TortureError("there are more rows than in the input")
    return rows


def disturb(work: Path, kills: int, chance: random.Random, found: dict[str, Any]) -> None:
    """Kill and starve the job so many times, then let it end. One that ends before is compared, and begun anew."""
    output = work / "disturbed"
    exits: Counter[str] = Counter()
    share = found["seconds"]["undisturbed"] / kills
    while exits["-9"] < kills:
        code = run_killed(work, output, chance.uniform(0, 2 * share) + found["seconds"]["start"])
        exits[str(code)] += 1
        found["parts_after_kill"].append(finished_parts(output))
        if code not in (0, -signal.SIGKILL):
            raise TortureError(f"the job ended with {code}")
        if code == 0:
            compare(work, work / "whole", output)
            shutil.rmtree(output)
        elif exits["-9"] % 5 == 0:
            before, full = finished_parts(output), exits["-9"] % 10 == 5
            code = run_without_room(work, output) if full else run_on_a_broken_disk(work, output, chance.randint(8, 40))
            exits[f"{'no room' if full else 'I/O error'}: {code}"] += 1
            if code not in (STOPPED, 0):
                raise TortureError(f"on a {'full' if full else 'broken'} disk the job ended with {code}")
            if finished_parts(output) < before + (full and code == STOPPED):
                raise TortureError(f"of {before} finished parts {finished_parts(output)} are left")
        found["exits"] = dict(exits)
    if done := subprocess.run(command(work, output), stderr=subprocess.DEVNULL, check=False).returncode:
        raise TortureError(f"the job does not end: {done}")


def disturb_file(work: Path, suffix: str, kills: int, chance: random.Random) -> dict[str, Any]:
    """Kill a job that makes one file, also while its parts are joined and removed. Raises TortureError."""
    whole, output = work / f"whole{suffix}", work / f"disturbed{suffix}"
    began = time.monotonic()
    subprocess.run(command(work, whole), stderr=subprocess.DEVNULL, check=True)
    seconds, exits = time.monotonic() - began, Counter[str]()
    while exits["-9"] < kills:
        exits[str(code := run_killed(work, output, chance.uniform(0, 1.1 * seconds)))] += 1
        if code == 0 or _is_whole(output, code):
            _compare_files(whole, output)
            output.unlink()
        elif code != -signal.SIGKILL:
            raise TortureError(f"the job of {output.name} ended with {code}")
    done = subprocess.run(command(work, output), stderr=subprocess.DEVNULL, check=False).returncode
    if done and not _is_whole(output, done):
        raise TortureError(f"the job of {output.name} does not end: {done}")
    _compare_files(whole, output)
    return {"file": suffix, "exits": dict(exits)}


def _is_whole(output: Path, code: int) -> bool:
    """Whether a job was refused because the one before was killed when all was done; what it left goes."""
    if code != REFUSED or not output.exists() or output.with_name(f"{output.name}.partial").exists():
        return False
    for left in output.parent.glob(f".{output.name}.partial-*"):
        shutil.rmtree(left)
    return True


def _compare_files(whole: Path, output: Path) -> None:
    if output.read_bytes() != whole.read_bytes():
        raise TortureError(f"{output.name} is not the one of an undisturbed job")
    if left := [
        path.name for path in output.parent.iterdir() if path.name.startswith((f"{output.name}.", f".{output.name}"))
    ]:
        raise TortureError(f"{left[0]} is left beside {output.name}")


def table(found: dict[str, Any]) -> str:
    """What docs/reliability.md shows."""
    exits = ", ".join(f"{code} {count} times" for code, count in found["exits"].items())
    killed = found["exits"].get("-9", 0)
    return (
        f"{found['rows']:,} rows, {killed} kills, {found['hardware']['processor']}: every row once, and every byte "
        f"that of an undisturbed job ({found['seconds']['undisturbed']:.0f} s undisturbed, "
        f"{found['seconds']['disturbed']:.0f} s with everything). Processes ended with: {exits}. {_files(found)}"
    )


def _files(found: dict[str, Any]) -> str:
    told = ", ".join(
        f"{each['file']} ({', '.join(f'{code} {count} times' for code, count in each['exits'].items())})"
        for each in found.get("files", [])
    )
    return f"One file of {found['rows_of_files']:,} rows, byte for byte: {told}." if told else ""


def main() -> int:
    """Label undisturbed, label disturbed, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--results", type=Path, default=RESULTS)
    told = parser.parse_args()
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work, 320)
        train(settings(work), work / "model", progress=False)
        write_rows(work / "in.csv", told.rows)
        began = time.monotonic()
        subprocess.run([*command(work, work / "first"), "--limit", "1"], stderr=subprocess.DEVNULL, check=True)
        start = time.monotonic() - began
        subprocess.run(command(work, work / "whole"), stderr=subprocess.DEVNULL, check=True)
        undisturbed = time.monotonic() - began - start
        found: dict[str, Any] = {"rows": told.rows, "kills": told.kills, "exits": {}, "parts_after_kill": []}
        found |= {"seconds": {"start": start, "undisturbed": undisturbed}, "versions": versions()}
        found["hardware"] = hardware()
        began = time.monotonic()
        disturb(work, told.kills, chance, found)
        found["seconds"]["disturbed"] = time.monotonic() - began
        found["compared_rows"] = compare(work, work / "whole", work / "disturbed")
        if found["compared_rows"] != told.rows:
            raise TortureError(f"{found['compared_rows']} rows of {told.rows}")
        shutil.rmtree(work / "disturbed")
        found["rows_of_files"] = told.rows // 20
        write_rows(work / "few.csv", found["rows_of_files"])
        found["files"] = [disturb_file(work, each, told.kills // 3, chance) for each in (".csv", ".jsonl", ".parquet")]
    told.results.parent.mkdir(parents=True, exist_ok=True)
    write_json(told.results, found)
    if told.results == RESULTS:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.partition(MARKS[0])[0], page.partition(MARKS[1])[2]
        write_text(PAGE, f"{before}{MARKS[0]}\n{table(read_json(RESULTS))}\n{MARKS[1]}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
