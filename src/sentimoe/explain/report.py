"""One self-contained HTML file from the findings: no script, no network, every text escaped."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..records import write_text
from .summary import answer, listed, quoted, signed, things_to_know

PAGE_BYTES = 3_500_000  # of the texts one by one
LARGE_GAP = 0.2  # of what an attribution should add up to
WIDTH, HEIGHT, MARGIN = 640, 440, 12  # of a scatter plot, in its own units


def write_report(findings: dict[str, Any], folder: Path) -> Path:
    """Write `report.html` and `report.json` into an existing folder; returns the path of the page."""
    text = json.dumps(findings, ensure_ascii=False, allow_nan=False)
    write_text(folder / "report.json", text + "\n")
    page = folder / "report.html"
    write_text(page, report_html(findings))
    return page


def report_html(findings: dict[str, Any]) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("sentimoe.explain"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": lambda value: "-" if value is None else f"{100 * value:.0f}%",
        "three": lambda value: "-" if value is None else signed(value, 3).removeprefix("+"),
        "signed": signed,
    }
    environment.globals |= {"place": place, "pieces": pieces, "read_part": read_part, "strongest": strongest}
    environment.globals |= {"doubts": doubts, "listed": listed}
    return environment.get_template("report.html.jinja").render(found=_for_the_page(findings))


def _for_the_page(findings: dict[str, Any]) -> dict[str, Any]:
    """The findings with what the page says first and the rows of each heat map."""
    confusion = [[count / max(sum(row), 1) for count in row] for row in findings["scores"]["confusion_matrix"]]
    first = {"answer": answer(findings), "things": things_to_know(findings), "fitting": fitting(findings)}
    return findings | first | {"confusion_rows": confusion} | _routing_rows(findings)


def _routing_rows(findings: dict[str, Any]) -> dict[str, Any]:
    """By layer, then a row for each group; of a dense model nothing."""
    layers, experts = len(findings["model"]["layers"]), findings["model"]["experts"]
    if not experts:
        return {}
    most = math.log2(experts) or 1.0
    even = [[*row, bits / most] for row, bits in zip(findings["load"], findings["entropy"], strict=True)]

    def by_layer(shares: Sequence[Any]) -> list[list[Any]]:
        return [[group[layer] for group in shares] for layer in range(layers)]

    return {
        "load_rows": even,
        "class_rows": by_layer(findings["by_class"]),
        "lexicon_rows": by_layer(findings["by_lexicon"]["shares"]),
        "part_rows": by_layer(findings["by_part"]["shares"]),
    }


def fitting(findings: dict[str, Any]) -> int:
    """How many of the texts the page may show to stay well under 5 MB.

    A token takes some 80 bytes a line and a row of the table; each line holds the text, escaped.
    """
    layers, experts = len(findings["model"]["layers"]), findings["model"]["experts"]
    room = PAGE_BYTES
    for count, text in enumerate(findings["texts"]):
        changes = layers * experts * len(text["probabilities"]) if "knock_out" in text else 0
        line = len(html.escape(read_part(text["text"], text["tokens"])).encode())
        room -= (layers + 2) * (80 * len(text["tokens"]) + line) + 60 * changes + 8000
        if room < 0:
            return count
    return len(findings["texts"])


def place(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Points `[B][2]` in the units of a scatter plot."""
    if not points:
        return []
    xs, ys = zip(*points, strict=True)
    found = []
    for x, y in points:
        across = (x - min(xs)) / (max(xs) - min(xs) or 1)
        down = (y - min(ys)) / (max(ys) - min(ys) or 1)
        found.append(
            (round(MARGIN + across * (WIDTH - 2 * MARGIN), 1), round(MARGIN + down * (HEIGHT - 2 * MARGIN), 1))
        )
    return found


def pieces(text: str, tokens: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any] | None]]:
    """A text cut into its tokens and what lies between them (None): joined again they are the text."""
    found: list[tuple[str, dict[str, Any] | None]] = []
    done = 0
    for token in tokens:
        start, end = max(token["start"], done), token["end"]
        if end <= start:
            continue
        if start > done:
            found.append((text[done:start], None))
        found.append((text[start:end], token))
        done = end
    return [*found, (text[done:], None)] if done < len(text) else found


def read_part(text: str, tokens: Sequence[dict[str, Any]]) -> str:
    """A text up to its last token: of one that was cut, what the model read."""
    end = max((token["end"] for token in tokens), default=0)
    return text if not text[end:].strip() else text[:end]


def doubts(text: str, tokens: Sequence[dict[str, Any]], disputed: Sequence[int], gap: float, label: str) -> list[str]:
    """What to say beside the colours of an attribution: it is not exact, or the model takes a token the other way."""
    said = []
    if gap >= LARGE_GAP:
        said.append(f"The colours are a rough guide: they miss what they should add up to by {gap:.0%}.")
    for token in (tokens[place] for place in disputed):
        colour, change = ("green", "more") if token["score"] > 0 else ("red", "less")
        word = quoted(text[token["start"] : token["end"]].strip())
        said.append(f"{word} is {colour}, but without it the model would find {quoted(label)} {change} likely.")
    return said


def strongest(tokens: Sequence[dict[str, Any]]) -> float:
    """The largest attribution of a text, in size; 1 where there is none."""
    return max((abs(token.get("score", 0.0)) for token in tokens), default=0.0) or 1.0
