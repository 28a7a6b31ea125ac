"""`python tools/bulk.py memory`, `lengths`, `whole`: what a bulk job takes in memory and time; docs/scale.md shows it.

memory: files of more and more short rows, and a tiny model; the largest resident memory of each process. One more job
reads and writes without a model, which is the limit of what one process can feed.
lengths: a real model, files of short and of long texts; the largest resident memory of each process.
whole: a million real tweets (the embedded ones again and again, numbered) and a real model; the job is killed with
SIGKILL half-way, given again, and compared row by row with the input, and with another job where one is given.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from torture import prepare, settings

from sentimoe.batch import Job, Predictor, run
from sentimoe.batch.journal import JOURNAL
from sentimoe.data.tweets import load_tweets
from sentimoe.machine import hardware, versions
from sentimoe.records import write_json
from sentimoe.training import train

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "scale"
COUNTS = (100_000, 1_000_000, 10_000_000)
LENGTHS = {10: (16_384, 65_536), 512: (1_024, 4_096)}  # rows by the number of their words, each of one token
SHORT = ("good", "bad", "so so", "what a day", "never again", "love it", "no", "fine by me")


class Idle(Predictor):
    """Gives made-up answers at once."""

    def labelled(self, frame: pd.DataFrame, unread: str | None = None) -> pd.DataFrame:
        return self.made_up(frame)


def measured(command: list[str], journal: Path | None = None, stop_at: int = 0) -> dict[str, Any]:
    """Seconds and largest resident memory of a job, in MiB. stop_at: it is killed once that many rows are finished.

    Raises RuntimeError where it fails.
    """
    started, peak = time.monotonic(), 0.0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stderr=said, text=True)
        while process.poll() is None:
            peak = max(peak, peak_of(process.pid))
            if journal is not None and finished_rows(journal) >= stop_at:
                process.kill()
                process.wait()
            time.sleep(0.1)
        if process.returncode not in (0, -9 if journal is not None else 0):
            said.seek(0)
            raise RuntimeError(said.read() or "the job failed")
    return {"seconds": time.monotonic() - started, "mib": peak}


def peak_of(process: int) -> float:
    """The largest resident memory of a process so far, in MiB; 0 once it is gone.

    Not `ru_maxrss`: a new process inherits that of the one that started it.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0) / 1024


def finished_rows(journal: Path) -> int:
    """Rows of the parts that a journal lists."""
    lines = journal.read_bytes().split(b"\n")[1:-1] if journal.exists() else []
    return sum(json.loads(line).get("rows", 0) for line in lines)


def command(model: Path, given: Path, output: Path, *options: str) -> list[str]:
    """What a user types."""
    told = ["predict", "--model", model, "--input", given, "--output", output]
    return [sys.executable, "-m", "sentimoe", *map(str, told), *options]


def write_rows(path: Path, texts: list[str], count: int) -> None:
    """Write so many numbered rows, the texts again and again."""
    for start in range(0, count, 100_000):
        numbers = range(start, min(start + 100_000, count))
        frame = pd.DataFrame({"row": numbers, "text": [texts[number % len(texts)] for number in numbers]})
        frame.to_csv(path, index=False, mode="a", header=start == 0)


def tweets() -> list[str]:
    """The embedded ones, shuffled; a carriage return alone would end a row."""
    return load_tweets()["train"]["text"].sample(frac=1, random_state=0).str.replace("\r", " ").tolist()


def memory(counts: list[int], work: Path) -> None:
    """A record of the memory over more and more rows, and of a job without a model."""
    prepare(work, 320)
    train(settings(work), work / "model", progress=False)
    found: dict[str, Any] = {"rows": [], "hardware": hardware(), "versions": versions()}
    for count in counts:
        given, output = work / f"{count}.csv", work / f"out-{count}"
        write_rows(given, list(SHORT), count)
        row = {"rows": count, "own": True} | measured(command(work / "model", given, output, "--precision", "float32"))
        found["rows"].append(row)
        print(row, flush=True)
        write_json(RESULTS / "memory.json", found)
        shutil.rmtree(output)
    idle = Idle(work / "model", precision="float32")
    given = work / "idle.csv"
    write_rows(given, tweets(), 300_000)
    report = run(Job([given], work / "idle"), lambda column: idle, {}, lambda rows, rejected: None)
    write_json(
        RESULTS / "memory.json",
        found | {"idle": {"rows": report.rows, "rows_per_second": report.rows / report.seconds}},
    )


def lengths(model: Path, name: str, work: Path) -> None:
    """A record of the memory over more and more texts, short ones and long ones."""
    found: dict[str, Any] = {"model": name, "rows": [], "hardware": hardware(), "versions": versions()}
    for words, counts in LENGTHS.items():
        for count in counts:
            given, output = work / f"{words}-{count}.csv", work / f"out-{words}-{count}"
            write_rows(given, [" ".join([word] * words) for word in ("good", "bad", "film", "day", "never")], count)
            row = {"words": words, "rows": count} | measured(command(model, given, output))
            found["rows"].append(row)
            print(row, flush=True)
    write_json(RESULTS / "lengths.json", found)


def whole(model: Path, name: str, count: int, engine: str, options: list[str], work: Path, like: Path | None) -> None:
    """A record of a job that was killed half-way and given again."""
    given, output = work / "in.csv", work / f"out-{engine}"
    if not given.exists():
        write_rows(given, tweets(), count)
    told = command(model, given, output, "--engine", engine, *options)
    first = measured(told, output / JOURNAL, count // 2)
    killed_at = finished_rows(output / JOURNAL)
    print(f"killed at {killed_at:,} rows after {first['seconds']:.0f} s", flush=True)
    second = measured(told)
    scored = compare(given, output)
    found = {
        "rows": count,
        "model": name,
        "engine": engine,
        "options": options,
        "killed_at": killed_at,
        "scored": scored,
    }
    found |= {"seconds": first["seconds"] + second["seconds"], "mib": max(first["mib"], second["mib"])}
    found["compared"] = "every row that of the input, once"
    if like is not None:
        found |= beside(output, like)
    found |= {"hardware": hardware(), "versions": versions()}
    write_json(RESULTS / f"whole__{engine}.json", found)
    print(json.dumps(found, indent=1))


def compare(given: Path, output: Path) -> int:
    """How many rows have a label. Raises RuntimeError unless the rows are those of the input, in order."""
    parts = (pd.read_csv(path, dtype=str, na_filter=False) for path in sorted(output.glob("part-*")))
    waiting, scored = pd.DataFrame(), 0
    for chunk in pd.read_csv(given, dtype=str, na_filter=False, chunksize=200_000):
        while len(waiting) < len(chunk):
            waiting = pd.concat([waiting, next(parts)], ignore_index=True)
        found, waiting = waiting.iloc[: len(chunk)].reset_index(drop=True), waiting.iloc[len(chunk) :]
        if not found[["row", "text"]].equals(chunk.reset_index(drop=True)):
            raise RuntimeError("rows are not those of the input")
        scored += int((found["label"] != "").sum())
    if len(waiting) or next(parts, None) is not None:
        raise RuntimeError("there are more rows than in the input")
    return scored


def beside(output: Path, like: Path) -> dict[str, Any]:
    """How far the answers are from those of another job over the same rows."""
    differ, largest, ties = 0, 0.0, 0
    for path in sorted(output.glob("part-*")):
        found, other = (pd.read_csv(folder / path.name, na_filter=False) for folder in (output, like))
        apart = found["label"] != other["label"]
        differ += int(apart.sum())
        largest = max(largest, float((found["score"] - other["score"]).abs().max()))
        near = (found["score"] - other["score"]).abs() < 0.01
        ties += int((apart & near & (found["score"] < 0.51)).sum())  # two labels have the same score at most at a half
    return {"labels_that_differ": differ, "of_them_scores_within_0.01": ties, "largest_difference_of_a_score": largest}


def main() -> int:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "lengths", "whole"))
    parser.add_argument("--rows", type=int, nargs="+", help="of memory: several; of whole: one")
    parser.add_argument("--model", type=Path, help="of lengths and whole: a folder")
    parser.add_argument("--name", default="", help="of lengths and whole: what the record calls the model")
    parser.add_argument("--engine", default="local", choices=("local", "ray"))
    parser.add_argument("--option", action="append", default=[], help="of predict, such as --option=--backend=openvino")
    parser.add_argument("--work", type=Path, help="of whole: a folder for input and output, which stay")
    parser.add_argument("--like", type=Path, help="of whole: the output of another job over the same rows")
    told = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = told.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        if told.what == "memory":
            memory(told.rows or list(COUNTS), work)
        elif told.what == "lengths":
            lengths(told.model, told.name or told.model.name, work)
        else:
            count = (told.rows or [1_000_000])[0]
            whole(told.model, told.name or told.model.name, count, told.engine, told.option, work, told.like)
    return 0


if __name__ == "__main__":
    sys.exit(main())
