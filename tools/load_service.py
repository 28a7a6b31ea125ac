"""`make load`: load the service over loopback, and write what it did to `results/service/load.json`.

Parts (`--parts`): `speed` (texts per second beside the offline engine and a plain app, on the same texts, in turns),
`overload`, `leaving`, `half-open`, `sigterm` (first with a stub of fixed service time, then with the model), `soak`.
A part that is not run again keeps what was measured before. `docs/reliability.md` gets the table.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import generators
import psutil
from load_table import CLIENTS, TEXTS, table

from sentimoe import SentimentClassifier
from sentimoe.data import load_dataset
from sentimoe.inference import keep_freed_memory
from sentimoe.machine import hardware, versions
from sentimoe.records import read_json, write_json, write_text

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "results" / "service" / "load.json", ROOT / "docs" / "reliability.md"
MARKS = ("<!-- load -->", "<!-- /load -->")
STUB = 0.001  # seconds for a text


def main() -> int:
    """Measure, write, and say which goals were missed: their number is the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sentiment", help="what is served")
    parser.add_argument("--dense", default="sentiment", help="the model of the plain app")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, "soak"], default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement of speed")
    parser.add_argument("--overload-seconds", type=float, default=120)
    parser.add_argument("--soak-minutes", type=float, default=30)
    given = parser.parse_args()
    found = read_json(RESULTS) if RESULTS.exists() else {}
    for part in given.parts:
        print(f"{part} ...", flush=True)
        run = {**PARTS, "soak": soak}[part]
        told = {"served": Path(given.model).name, "versions": versions(), "hardware": hardware()}
        found[part] = run(given) | told
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        write_json(RESULTS, found)
        print(json.dumps({key: value for key, value in found[part].items() if key not in ("versions", "hardware")}))
    write_page(table(found))
    missed = [name for part in found.values() for name, met in part.get("goals", {}).items() if not met]
    print(f"missed: {', '.join(missed) or 'none'}")
    return len(missed)


def texts_of(count: int = 3200) -> list[str]:
    """Tweets that no ready model was trained on."""
    splits = load_dataset("tweets").splits
    texts = [*splits["test"].texts, *splits["validation"].texts]
    Random(0).shuffle(texts)  # they are sorted by class
    return (texts * (count // len(texts) + 1))[:count]


def serving(model: str, *more: str) -> Any:
    """`sentimoe serve` in a process of its own."""
    return generators.started(sys.executable, "-m", "sentimoe", "serve", f"model={model}", "--port", "0", *more)


def stub(*more: str) -> Any:
    """The service over a stub."""
    told = ("--seconds-per-text", str(STUB), *more)
    return generators.started(sys.executable, str(ROOT / "tools" / "stub_service.py"), *told)


def speed(given: argparse.Namespace) -> dict[str, Any]:
    """Offline engine, service (16 texts, and one) and plain app in turns: every round, and the quartiles of ratios."""
    texts = texts_of()
    keep_freed_memory()  # as the commands do, `predict` and `serve` alike
    offline = SentimentClassifier.from_pretrained(given.model)
    offline.predict_proba(texts[:512])
    many, single = generators.bodies_of(texts, TEXTS), generators.bodies_of(texts, 1)
    rounds = []
    plain = (sys.executable, str(ROOT / "tools" / "plain_service.py"), given.dense)
    with serving(given.model) as (process, port, _):
        for _ in range(given.rounds):
            started = time.perf_counter()
            offline.predict_proba(texts)
            row: dict[str, Any] = {"offline": len(texts) / (time.perf_counter() - started)}
            before = sum(psutil.Process(process.pid).cpu_times()[:2])
            row["service"] = generators.wrk(port, many, CLIENTS, given.seconds, TEXTS)
            row["service"]["cpu_seconds"] = round(sum(psutil.Process(process.pid).cpu_times()[:2]) - before, 1)
            row["single"] = generators.wrk(port, single, CLIENTS, given.seconds, 1)
            row["one_client"] = generators.wrk(port, single, 1, given.seconds / 2, 1)
            with generators.started(*plain) as (_, plain_port, _):  # it goes on after its clients have left
                row["plain"] = generators.wrk(plain_port, many, CLIENTS, 3 * given.seconds, TEXTS)
            rounds.append(row)
            print(json.dumps(row), flush=True)
    share = _spread([row["service"]["texts_per_second"] / row["offline"] for row in rounds])
    times = _spread([row["service"]["texts_per_second"] / max(row["plain"]["texts_per_second"], 1) for row in rounds])
    return {
        "model": Path(given.model).name,
        "dense": Path(given.dense).name,
        "rounds": rounds,
        "of_offline": share,
        "of_plain": times,
        "goals": {"70% of the offline engine": share["median"] >= 0.7, "5 times the plain app": times["median"] >= 5},
    }


def overload(given: argparse.Namespace) -> dict[str, Any]:
    """At capacity, then ten times as many texts as can be answered, then one request: a stub, then the model."""
    with stub() as (_, port, _):
        found = {"stub": _overloaded(port, given.overload_seconds, 1 / STUB)}
    texts = texts_of(TEXTS)
    with serving(given.model) as (_, port, _):
        body = generators.bodies_of(texts, TEXTS)[0]
        capacity = generators.wrk(port, [body], CLIENTS, 8, TEXTS)["texts_per_second"]
        found["model"] = _overloaded(port, given.overload_seconds / 4, capacity, body)
    goals = {}
    for name, each in found.items():
        goals[f"{name}: only 200 and 429"] = set(each["overload"]["statuses"]) <= {"200", "429"}
        doubled = each["overload"]["accepted_p99_ms"] <= 2 * each["at_capacity"]["accepted_p99_ms"]
        goals[f"{name}: p99 at most doubled"] = doubled
        goals[f"{name}: recovered in 5 s"] = each["recovered_after_seconds"] < 5
    return {**found, "goals": goals}


def _overloaded(port: int, seconds: float, capacity: float, body: str | None = None) -> dict[str, Any]:
    body = body or generators.bodies_of(["a text of a few words"] * TEXTS, TEXTS)[0]
    at_capacity = generators.h2load(port, body, CLIENTS, 20)
    clients = 10 * CLIENTS
    rate = 10 * capacity / TEXTS / clients
    found = generators.h2load(port, body, clients, seconds, round(rate, 3))
    started, asked = time.perf_counter(), {"inputs": "a text of a few words"}
    while (answer := _timed(port, asked)) > 2 * at_capacity["accepted_p50_ms"] / 1000:
        if time.perf_counter() - started > 30:
            break
    recovered = time.perf_counter() - started
    told = {"capacity_texts_per_second": round(capacity), "at_capacity": at_capacity, "overload": found}
    return told | {"recovered_after_seconds": round(recovered, 2), "then_one_request_ms": round(1000 * answer, 1)}


def _timed(port: int, asked: Any) -> float:
    started = time.perf_counter()
    status, _ = generators.ask(port, "POST", "/predict", asked)
    return time.perf_counter() - started if status == 200 else float("inf")


def leaving(given: argparse.Namespace) -> dict[str, Any]:
    """1,000 clients that leave before the answer."""
    found = {}
    for name, server in (("stub", stub()), ("model", serving(given.model))):
        with server as (_, port, _):
            generators.leaving(port, 1000, generators.bodies_of(texts_of(TEXTS), TEXTS)[0])
            started = time.perf_counter()
            while held(port) and time.perf_counter() - started < 30:
                time.sleep(0.05)
            seconds = time.perf_counter() - started
            status, _ = generators.ask(port, "POST", "/predict", {"inputs": [["text"]] * 200})
            left = measured(port, "sentimoe_cancelled_requests_total")
            found[name] = {"left": left, "held": held(port), "empty_after_seconds": round(seconds, 2), "then": status}
    goals = {f"{name}: no slot is left": each["held"] == 0 and each["then"] == 200 for name, each in found.items()}
    return {**found, "goals": goals}


def half_open(given: argparse.Namespace) -> dict[str, Any]:
    """200 connections that send nothing, half a head or half a body, and one client beside them."""
    found = {}
    for name, server in (("stub", stub()), ("model", serving(given.model))):
        with server as (_, port, _):
            alone = [_timed(port, {"inputs": "a text"}) for _ in range(50)]
            with generators.half_open(port, 200):
                beside = [_timed(port, {"inputs": "a text"}) for _ in range(50)]
        found[name] = {"alone_ms": _milliseconds(alone), "beside_200_ms": _milliseconds(beside)}
    goals = {
        f"{name}: answers beside 200 half-open connections": each["beside_200_ms"] < 5 * each["alone_ms"] + 50
        for name, each in found.items()
    }
    return {**found, "goals": goals}


def sigterm(given: argparse.Namespace) -> dict[str, Any]:
    """SIGTERM while 24 clients ask: requests that the log says were taken, and answers that came."""
    found: dict[str, Any] = {}
    body = generators.bodies_of(texts_of(TEXTS), TEXTS)[0]
    for name, server, times in (("stub", stub, 20), ("model", lambda: serving(given.model), 3)):
        taken = answered = broken = 0
        seconds = []
        for _ in range(times):
            with server() as (process, port, log):
                clients = generators.Clients(port, 24, body)
                time.sleep(1.5)
                started = time.perf_counter()
                process.send_signal(signal.SIGTERM)
                process.wait(60)
                seconds.append(time.perf_counter() - started)
                clients.join()
                lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
                taken += sum(line.get("route") == "/predict" for line in lines)
                answered += clients.answered.total()
                broken += clients.broken
        found[name] = {"times": times, "taken": taken, "answered": answered, "broken": broken}
        found[name]["longest_seconds"] = round(max(seconds), 2)
    goals = {
        f"{name}: SIGTERM loses no accepted request": each["taken"] == each["answered"] and not each["broken"]
        for name, each in found.items()
    }
    return {**found, "goals": goals}


def soak(given: argparse.Namespace) -> dict[str, Any]:
    """Requests of ever new sizes for half an hour: the memory after two minutes, and at the end."""
    texts = texts_of(6400)
    bodies = [body for each in (1, 3, 16, 40) for body in generators.bodies_of(texts, each)]
    ends = time.monotonic() + 60 * given.soak_minutes
    with serving(given.model) as (process, port, _):
        generators.wrk(port, bodies, 8, min(120, 6 * given.soak_minutes), 1)
        sizes = [generators.megabytes(process)]
        while time.monotonic() < ends:
            generators.wrk(port, bodies, 8, 60, 1)
            sizes.append(generators.megabytes(process))
        answered = measured(port, "sentimoe_texts_total")
    grown = statistics.median(sizes[-3:]) - sizes[0]
    told = {"minutes": given.soak_minutes, "texts": answered, "megabytes": [round(size, 1) for size in sizes]}
    return told | {"grown_megabytes": round(grown, 1), "goals": {"grows by less than 20 MB": grown < 20}}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "overload": overload,
    "leaving": leaving,
    "half-open": half_open,
    "sigterm": sigterm,
    "speed": speed,
}


def measured(port: int, name: str) -> int:
    """The sum of a metric over its labels."""
    told = generators.ask(port, "GET", "/metrics")[1].decode()
    return int(sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", told, re.MULTILINE))))


def held(port: int) -> int:
    """Texts that wait or are answered."""
    return measured(port, "sentimoe_queue_texts")


def _milliseconds(seconds: Sequence[float]) -> float:
    return round(1000 * statistics.median(seconds), 1)


def _spread(values: Sequence[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": round(median, 2), "low": round(low, 2), "high": round(high, 2)}


def write_page(block: str) -> None:
    """Put the tables between the marks of the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    write_text(PAGE, f"{before}{MARKS[0]}\n{block}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")


if __name__ == "__main__":
    sys.exit(main())
