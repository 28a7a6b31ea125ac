"""What `make load` measured, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

TEXTS, CLIENTS = 16, 64  # of a request; that ask at once


def table(found: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    lines = ["| trial | service over | what happened |", "|---|---|---|"]
    lines += [f"| {trial} | {name} | {what} |" for trial, name, what in _trials(found)]
    if fast := found.get("speed"):
        lines += ["", *_speed_lines(fast)]
    return "\n".join(lines)


def _trials(found: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Each trial, what the service ran, and what happened."""
    for name, each in _of(found, "overload"):
        over, before = each["overload"], each["at_capacity"]
        statuses = ", ".join(f"{count:,} × {status}" for status, count in over["statuses"].items())
        asked = f"ten times the {each['capacity_texts_per_second']:,} texts/s that it can answer"
        yield (
            f"{over['clients']} clients ask for {asked}, {over['seconds']:.0f} s",
            name,
            f"{statuses}; p99 of the accepted {over['accepted_p99_ms']:,.0f} ms, at capacity "
            f"{before['accepted_p99_ms']:,.0f} ms; normal again after {each['recovered_after_seconds']:.1f} s",
        )
    for name, each in _of(found, "leaving"):
        told = f"{each['held']} texts are held {each['empty_after_seconds']:.1f} s later"
        yield "1,000 clients leave before the answer", name, f"{told}; the next request is answered ({each['then']})"
    for name, each in _of(found, "half-open"):
        told = f"a text is answered in {each['beside_200_ms']:.1f} ms, without them in {each['alone_ms']:.1f} ms"
        yield "200 half-open connections", name, told
    for name, each in _of(found, "sigterm"):
        told = f"{each['taken']:,} requests taken, {each['answered']:,} answered whole"
        ended = f"it ended within {each['longest_seconds']:.1f} s"
        yield f"SIGTERM under load, {each['times']} times", name, f"{told}; {ended}"
    if each := found.get("soak"):
        trial = f"{each['minutes']:.0f} minutes, {each['texts']:,} texts in requests of 1 to 40"
        yield trial, "model", f"memory grew by {each['grown_megabytes']:.0f} MB"


def _of(found: dict[str, Any], part: str) -> list[tuple[str, Any]]:
    return [(name, found[part][name]) for name in ("stub", "model") if name in found.get(part, {})]


def _speed_lines(fast: dict[str, Any]) -> list[str]:
    rounds = fast["rounds"]

    def middle(kind: str, key: str) -> float:
        return statistics.median(row[kind][key] for row in rounds)

    lines = ["| | texts/s | p50 | p95 | p99 | CPU of the generator |", "|---|---:|---:|---:|---:|---:|"]
    offline = statistics.median(row["offline"] for row in rounds)
    lines.append(f"| {fast['model']}, offline engine | {offline:,.0f} | | | | |")
    for kind, what in (
        ("service", f"{fast['model']}, service, {CLIENTS} clients, {TEXTS} texts a request"),
        ("single", f"{fast['model']}, service, {CLIENTS} clients, one text"),
        ("one_client", f"{fast['model']}, service, one client, one text"),
        ("plain", f"{fast['dense']}, FastAPI and `transformers.pipeline`, {CLIENTS} clients, {TEXTS} texts"),
    ):
        ranks = " | ".join(f"{middle(kind, f'p{rank}_ms'):,.0f} ms" for rank in (50, 95, 99))
        cpu = f"{middle(kind, 'generator_cpu_seconds'):.1f} of {middle(kind, 'seconds'):.0f} s"
        lines.append(f"| {what} | {middle(kind, 'texts_per_second'):,.0f} | {ranks} | {cpu} |")
    share, times = fast["of_offline"], fast["of_plain"]
    lines += [
        "",
        f"Medians of {len(rounds)} rounds in turns. The service reached {share['median']:.0%} of the offline engine's "
        f"texts/s (quartiles {share['low']:.0%} to {share['high']:.0%}) and {times['median']:.1f} times those of the "
        f"plain app ({times['low']:.1f} to {times['high']:.1f}).",
    ]
    return lines
