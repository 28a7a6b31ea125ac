"""`make mutants`: plant one bug at a time in a copy of the tree, and see which test notices.

The bugs stand in `tools/mutants.yaml`. For each one the tests of its layer run first, then the rest of the suite, until
one fails. What was found goes to `results/reliability/mutants.json` after every bug, so that a run that was stopped
goes on: a bug is tried again when its line, or the test that caught it, has changed (all of them when the file is not
there). At the end the tests that caught a bug run on the tree as it is, where they must pass, and `docs/reliability.md`
gets the table. A run of the tests that never ends, or cannot begin, is an error and not a catch.
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sentimoe.records import read_json, write_json, write_text

ROOT = Path(__file__).parents[1]
LIST, RESULTS, PAGE = "tools/mutants.yaml", "results/reliability/mutants.json", "docs/reliability.md"
MARKS = ("<!-- mutants -->", "<!-- /mutants -->")
OWN_TEST = "tests/test_mutants.py"  # would catch every bug: the text it replaces is no longer in the source
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


class MutantsError(Exception):
    """The list does not fit the source, or a run of the tests said neither yes nor no."""


@dataclass(frozen=True)
class Mutant:
    """One planted bug. file: below `src`. old: a text that stands there once, within a line. new: what takes its place.

    why: what is wrong then, as a user sees it. layer: whose tests run first. first: a test to try before, for speed.
    """

    layer: str
    name: str
    file: str
    old: str
    new: str
    why: str
    first: str | None = None

    def planted(self, tree: Path = ROOT) -> str:
        """The file with the bug in it. Raises MutantsError unless `old` stands there exactly once."""
        source = _read(tree / "src" / self.file)
        if source.count(self.old) != 1 or "\n" in self.old + self.new or self.old == self.new:
            raise MutantsError(
                f"{self.name}: {self.old!r} stands {source.count(self.old)} times in src/{self.file}; {LIST} must give "
                "a part of one line that stands there once, and something else for it"
            )
        return source.replace(self.old, self.new)

    def key(self, test: str) -> str:
        """A hash of the bug and of the test that caught it."""
        told = "\0".join((self.file, self.old, self.new, source_of(test) or ""))
        return hashlib.sha256(told.encode("utf-8")).hexdigest()


def read_list() -> tuple[list[Mutant], dict[str, list[str]]]:
    """The planted bugs, and the test files of each layer."""
    told = yaml.safe_load(_read(ROOT / LIST))
    return [Mutant(layer, **bug) for layer, bugs in told["bugs"].items() for bug in bugs], told["layers"]


def source_of(test: str) -> str | None:
    """The text of a test by its name in pytest; None when there is none (any more), for which pytest would fail."""
    file, _, names = test.partition("[")[0].partition("::")
    return _functions(_read(ROOT / file)).get(names.rpartition("::")[2]) if (ROOT / file).is_file() else None


@functools.cache
def _functions(text: str) -> dict[str, str]:
    """The functions of a file, each with its decorators, by name."""
    lines, found = text.splitlines(), [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    starts = [min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) for node in found]
    return {node.name: "\n".join(lines[start - 1 : node.end_lineno]) for node, start in zip(found, starts, strict=True)}


@contextmanager
def copied_tree() -> Iterator[Path]:
    """A copy of what git knows or would add, without the test of the list itself."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        for name in filter(None, listed.split("\0")):
            if name != OWN_TEST and (ROOT / name).is_file():
                target = Path(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, target)
        yield Path(folder)


def failures(tree: Path, tests: Sequence[str], timeout: float, *options: str) -> list[str]:
    """The tests that fail in a tree; none: all pass.

    Raises MutantsError when pytest could not run them, and subprocess.TimeoutExpired.
    """
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-m", ""]
    command += [*options, *tests]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(tree / "src")}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=timeout)
    failed = FAILED.findall(done.stdout)
    if done.returncode not in (0, 1) or (done.returncode == 1) != bool(failed):
        raise MutantsError(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
    return failed


def judge(mutant: Mutant, stages: Iterable[Sequence[str]], timeout: float) -> dict[str, Any]:
    """Plant a bug and run the tests of each stage, until one fails: `caught_by` names it, None when none does."""
    started, caught = time.monotonic(), None
    with copied_tree() as tree:
        planted = mutant.planted(tree)
        (tree / "src" / mutant.file).write_text(planted, encoding="utf-8")
        for tests in stages:
            if failed := failures(tree, tests, timeout, "-x"):
                caught = failed[0]
                break
    key = None if caught is None else mutant.key(caught)
    return {"name": mutant.name, "caught_by": caught, "seconds": round(time.monotonic() - started), "key": key}


def stages_of(mutant: Mutant, layers: dict[str, list[str]], before: str | None, rest: bool) -> list[list[str]]:
    """What to run, in order: a test that is likely to catch the bug, those of its layer, all others."""
    likely = [test.partition("[")[0] for test in (before, mutant.first) if test and source_of(test)][:1]
    layer = layers[mutant.layer]
    others = sorted(f"tests/{path.name}" for path in (ROOT / "tests").glob("test_*.py"))
    last = [test for test in others if rest and test not in (*layer, OWN_TEST)]
    return [tests for tests in (likely, layer, last) if tests]


class Record:
    """The results so far, by the name of the bug, and their file."""

    def __init__(self, mutants: Sequence[Mutant], path: Path = ROOT / RESULTS):
        self.path, stored = path, read_json(path) if path.exists() else {}
        self.control: dict[str, Any] = stored.get("control", {})
        names = {mutant.name for mutant in mutants}
        self.rows = {row["name"]: row for row in stored.get("mutants", []) if row["name"] in names}

    def before(self, mutant: Mutant) -> str | None:
        """The test that caught a bug the last time."""
        return self.rows.get(mutant.name, {}).get("caught_by")

    def holds(self, mutant: Mutant) -> bool:
        """Whether the bug was caught, by a test that is still the same."""
        test = self.before(mutant)
        return test is not None and mutant.key(test) == self.rows[mutant.name]["key"]

    def caught(self, mutants: Sequence[Mutant]) -> list[Mutant]:
        """The bugs whose result still holds."""
        return [mutant for mutant in mutants if self.holds(mutant)]

    def write(self) -> None:
        """Write the file, by the names of the bugs."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [self.rows[name] for name in sorted(self.rows)]
        write_json(self.path, {"control": self.control, "mutants": rows})


def run(
    mutants: Sequence[Mutant], layers: dict[str, list[str]], record: Record, jobs: int, rest: bool, timeout: float
) -> None:
    """Judge the bugs whose result does not hold (any more), and record each one as it is known."""
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {}
        for mutant in mutants:
            if not record.holds(mutant):
                stages = stages_of(mutant, layers, record.before(mutant), rest)
                waiting[pool.submit(judge, mutant, stages, timeout)] = mutant.name
        for job in as_completed(waiting):
            name = waiting[job]
            try:
                found = job.result()
            except (MutantsError, subprocess.TimeoutExpired) as error:
                found = {"name": name, "caught_by": None, "error": str(error)}
            record.rows[name] = found
            record.write()
            print(f"{name}: {found.get('error') or found['caught_by'] or 'SURVIVED'}", flush=True)


def check_tests(record: Record, mutants: Sequence[Mutant], timeout: float) -> None:
    """Run the tests that caught a bug on the tree as it is; what fails there, too, has caught nothing."""
    tests = sorted({str(record.before(mutant)) for mutant in record.caught(mutants)})
    with copied_tree() as tree:
        failed = failures(tree, tests, timeout) if tests else []
    for name, row in record.rows.items():
        if row["caught_by"] in failed:
            record.rows[name] = {"name": name, "caught_by": None, "error": f"{row['caught_by']} fails without it, too"}
            print(f"{name}: {record.rows[name]['error']}", flush=True)
    record.control = {"tests": len(tests), "failed": failed}
    record.write()


def table(mutants: Sequence[Mutant], record: Record) -> str:
    """Every bug and the test that caught it, in Markdown."""
    lines = [
        f"{len(mutants)} planted bugs, of which the suite catches {len(record.caught(mutants))}. On the source without "
        f"bugs {len(record.control['failed'])} of the {record.control['tests']} tests that catch them fail.",
        "",
        "| file | what the planted bug does | caught by |",
        "|---|---|---|",
    ]
    for mutant in mutants:
        test = (record.before(mutant) or "nothing").partition("[")[0].removeprefix("tests/")
        lines.append(f"| {mutant.file} | {mutant.why} | {test.replace('::', ' ')} |")
    return "\n".join(lines)


def write_page(block: str) -> None:
    """Put the table between the marks of the page. Raises MutantsError for a page without them."""
    page = ROOT / PAGE
    text = _read(page)
    if [text.count(mark) for mark in MARKS] != [1, 1]:
        raise MutantsError(f"{page} must have the marks {' and '.join(MARKS)} once")
    before, after = text.partition(MARKS[0])[0], text.partition(MARKS[1])[2]
    write_text(page, f"{before}{MARKS[0]}\n{block}\n{MARKS[1]}{after}")


def main() -> int:
    """Judge what is not known yet. 1: a bug is not caught, or a test that caught one fails without it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="bugs or layers; none: all bugs, then the check and the page")
    parser.add_argument("--jobs", type=int, default=1, help="bugs at the same time")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one run of pytest")
    parser.add_argument("--layer-only", action="store_true", help="leave out the rest of the suite: a first look")
    told = parser.parse_args()
    mutants, layers = read_list()
    for mutant in mutants:
        mutant.planted()
    chosen = [each for each in mutants if not told.names or {each.name, each.layer} & set(told.names)]
    record = Record(mutants)
    run(chosen, layers, record, told.jobs, not told.layer_only, told.timeout)
    if not told.names:
        check_tests(record, mutants, told.timeout)
        write_page(table(mutants, record))
    caught = len(record.caught(chosen))
    print(f"{caught} of {len(chosen)} bugs caught")
    return int(caught < len(chosen) or bool(not told.names and record.control["failed"]))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
