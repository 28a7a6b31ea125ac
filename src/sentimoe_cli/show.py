"""How results are printed: tables for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from .messages import takes_unicode, visible

if TYPE_CHECKING:
    import pandas as pd


def prepare_process() -> None:
    """Keep transformers' progress bars and reports out of the way (errors and our own warnings stay), reuse memory."""
    from transformers.utils import logging

    from sentimoe.inference import keep_freed_memory

    keep_freed_memory()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=not takes_unicode(sys.stdout)))


def metrics_table(title: str, metrics: Mapping[str, Any]) -> Table:
    """Scores with their 95% intervals, then a row for every class."""
    table = Table(title=visible(f"{title} ({metrics['n']} texts)"))
    for heading in ("", "score", "95% interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    intervals = metrics.get("intervals", {})
    for name in ("accuracy", "f1_weighted", "f1_macro", "precision_weighted", "recall_weighted", "ece"):
        interval = intervals.get(name)
        value = metrics[name]
        table.add_row(
            name.replace("_", " "),
            "-" if value is None else f"{value:.4f}",
            "" if interval is None else f"{interval[0]:.4f} - {interval[1]:.4f}",
        )
    ordinal = {
        "mae": "mean distance in classes",
        "within_one": "within one class",
        "quadratic_kappa": "quadratic weighted kappa",
    }
    for name, value in metrics.get("ordinal", {}).items():
        interval = intervals.get(name)
        spread = "" if interval is None else f"{interval[0]:.4f} - {interval[1]:.4f}"
        table.add_row(ordinal[name], "-" if value is None else f"{value:.4f}", spread)
    table.add_section()
    for name, scores in metrics["per_class"].items():
        support = f"{scores['support']} text{'s' * (scores['support'] != 1)}"
        table.add_row(visible(f"f1 of {name}"), f"{scores['f1']:.4f}", support)
    return table


def most_frequent_line(found: Mapping[str, Any]) -> str:
    """What the label that is most frequent among the texts would score as the answer to all of them."""
    scores = ", ".join(
        f"{name.replace('_', ' ')} {found[name]:.4f}" for name in ("accuracy", "f1_weighted", "f1_macro")
    )
    return f"for comparison, {visible(repr(found['label']))} for every text: {scores}"


def coverage_line(found: Mapping[str, Any]) -> str:
    """How many answers are right when the least sure ones are left out. found: of `risk_coverage`."""
    points = list(zip(found["coverage"], found["risk"], strict=True))
    if not points:
        return "no text has an answer"
    told = []
    for share in (1.0, 0.9, 0.8, 0.5):
        coverage, risk = min(points, key=lambda point: abs(point[0] - share))
        told.append(f"{coverage:.0%}: {1 - risk:.4f}")
    return f"accuracy of the surest answers, by their share of all texts: {', '.join(dict.fromkeys(told))}"


def groups_table(title: str, groups: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each group of texts; those that are worse than all others together are marked."""
    table = Table(title=visible(title))
    ordinal = ["mean distance"] if groups and "ordinal" in groups[0] else []
    for heading in (
        "",
        "texts",
        "accuracy",
        "95% interval",
        "f1 weighted",
        "95% interval",
        "f1 macro",
        *ordinal,
        "worse than the rest",
    ):
        table.add_column(heading, justify="right" if heading else "left")
    for row in groups:
        spread = {name: f"{low:.4f} - {high:.4f}" for name, (low, high) in row["intervals"].items()}
        worse = f"yes, p {_p(row['p_worse'])}" if row["worse"] else ""
        table.add_row(
            visible(str(row["group"])),
            str(row["n"]),
            f"{row['accuracy']:.4f}",
            spread["accuracy"],
            f"{row['f1_weighted']:.4f}",
            spread["f1_weighted"],
            f"{row['f1_macro']:.4f}",
            *(_of(row["ordinal"]["mae"]) for _ in ordinal),
            worse,
        )
    return table


MOST_FLIPS = 10


def shortened(text: str, most: int = 200) -> str:
    """The text, or its beginning with three dots."""
    return visible(text if len(text) <= most else f"{text[:most]} ...")


def comparison_tables(
    comparison: Mapping[str, Any], texts: Sequence[str], labels: Sequence[str], which: str
) -> list[Table]:
    """What `compare_predictions` found: scores, changed labels, examples. labels: the true ones of the texts."""
    scores = Table(title=f"{which} ({comparison['n']} texts, {comparison['agreement']:.1%} with the same label)")
    for heading in ("", "a", "b", "a - b", "95% interval", "p"):
        scores.add_column(heading, justify="right" if heading else "left")
    titles = {name: name.replace("_", " ") for name in ("accuracy", "f1_weighted", "f1_macro")}
    if (distance := comparison.get("mae")) is not None:
        of_both = "" if distance["n"] == comparison["n"] else f"; {distance['n']} texts that both answer"
        titles |= {"mae": f"mean distance (lower is better{of_both})"}
    for name, title in titles.items():
        row = comparison[name]
        low, high = row["interval"]
        cells = [f"{row[each]:.4f}" for each in ("mean_a", "mean_b")]
        spread = f"{low:+.4f} to {high:+.4f}"
        scores.add_row(title, *cells, f"{row['difference']:+.4f}", spread, _p(row["p_value"]))
    only = comparison["mcnemar"]
    scores.add_row("right alone (McNemar)", str(only["b"]), str(only["c"]), "", "", _p(only["p_value"]))
    kinds = len(comparison["flips"])
    flips = Table(
        title="where the answers differ"
        + (f" (the {MOST_FLIPS} most frequent of {kinds} kinds)" if kinds > MOST_FLIPS else "")
    )
    for heading in ("true", "a", "b", "texts"):
        flips.add_column(heading, justify="right" if heading == "texts" else "left")
    for row in comparison["flips"][:MOST_FLIPS]:
        flips.add_row(
            *("(none)" if row[key] is None else visible(row[key]) for key in ("true", "a", "b")), str(row["count"])
        )
    examples = Table(title="examples, the most confident right answers first")
    for heading in ("right", "label", "text"):
        examples.add_column(heading)
    for key in ("a", "b"):
        for row in comparison[f"only_{key}"][:5]:
            examples.add_row(key, visible(labels[row]), shortened(texts[row]))
    return [scores, flips, examples]


def _of(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _p(value: float) -> str:
    """A p value; the bootstrap cannot show less than one of its resamples."""
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def suspects_table(suspects: pd.DataFrame) -> Table:
    """The first rows of what `label_errors` found."""
    table = Table(title="labels to check, the most suspicious first")
    for heading in ("row", "label", "suggested", "text"):
        table.add_column(heading, justify="right" if heading == "row" else "left")
    for row in suspects.to_dict("records"):
        likelier = [f"{visible(str(row[name]))} ({row[f'prob_{name}']:.0%})" for name in ("label", "suggested")]
        table.add_row(str(row["row"]), *likelier, shortened(row["text"]))
    return table


def confusion_table(metrics: Mapping[str, Any]) -> Table:
    """Rows are true classes, columns predicted ones."""
    names = list(map(visible, metrics["per_class"]))
    table = Table(title="confusion matrix (rows: true, columns: predicted)")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for name, row in zip(names, metrics["confusion_matrix"], strict=True):
        table.add_row(name, *map(str, row))
    return table


BENCH_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "backend": ("backend", str),
    "name": ("model or tool", str),
    "experts_per_token": ("experts per token", str),
    "texts": ("texts", "{:,}".format),
    "precision": ("precision", str),
    "texts_per_second": ("texts/s", "{:.0f}".format),
    "share": ("of the engine", "{:.0%}".format),
    "quartiles": ("quartiles", lambda pair: " - ".join(f"{each:.0f}" for each in pair)),
    "speed_up": ("times dense", lambda row: times_as_fast(row)),
    "gflops_per_text": ("GFLOPs/text", "{:.3f}".format),
    "mib": ("peak MiB", "{:.0f}".format),
    "f1_weighted": ("weighted F1", "{:.4f}".format),
    "f1_macro": ("macro F1", "{:.4f}".format),
    "agreement": ("same label", "{:.1%}".format),
    "megabytes": ("MB", "{:.0f}".format),
    "seconds": ("made in s", "{:.0f}".format),
    "note": ("note", str),
    "missing": ("missing", str),
}


def times_as_fast(timed: Mapping[str, Any]) -> str:
    """A ratio of speeds, or why there is none to print."""
    from sentimoe.evaluation import is_noisy

    low, high = timed["quartiles"]
    return f"too noisy ({low:.2f} - {high:.2f})" if is_noisy(timed) else f"{timed['ratio']:.2f}"


def bench_lines(found: Mapping[str, Any]) -> list[str]:
    """For each backend how many times as fast the model with experts is."""
    from sentimoe.evaluation import is_noisy

    lines = []
    for row in found.get("ratios", ()):
        low, high = row["quartiles"]
        spread, flops = f"(quartiles {low:.2f} - {high:.2f})", f"the FLOP ratio is {row['flop_ratio']:.2f}"
        said = f"{row['ratio']:.2f} times as fast as the dense model {spread}; {flops}"
        if is_noisy(row):
            said = f"too noisy to compare with the dense model {spread}; {flops}. Try a quiet machine or more --rounds"
        lines.append(f"{row['backend']}: {said}")
    return lines


def bench_table(found: Mapping[str, Any]) -> Table:
    """A row for everything that `sentimoe bench` measured; columns that no row fills are left out."""
    shown = [key for key in BENCH_COLUMNS if any(row.get(key) not in (None, "") for row in found["rows"])]
    engine = f", {found['backend']}" if "backend" in found else ""
    title = f"{found['data']}: {found['texts']:,} texts{engine}, {found['hardware']['processor']}"
    table = Table(title=visible(title))
    for key in shown:
        table.add_column(BENCH_COLUMNS[key][0])
    for row in found["rows"]:
        table.add_row(*(BENCH_COLUMNS[key][1](row[key]) if row.get(key) is not None else "" for key in shown))
    return table


def print_tables(*tables: Table) -> None:
    """Print to standard output, as wide as the terminal, or as they are; no name in them is read as markup."""
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        endless = Console(width=1000, markup=False, emoji=False)
        widest = max(endless.measure(table).maximum for table in tables)
        console = Console(width=max(100, widest), markup=False, emoji=False)
    for table in tables:
        console.print(table)
