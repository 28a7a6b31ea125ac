"""From `results/` to the rendered pages of `docs/`, their pictures and the results in the README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from sentimoe.errors import ConfigError
from sentimoe.records import read_json, write_text

from .ablation_picture import ablation_picture
from .added_steps import added_domains
from .compression import compressions
from .gain_picture import gain_picture
from .interpretability import interpretability
from .levers import records as levers
from .many_texts import DATA as TAUGHT
from .one_trunk import one_trunk
from .pictures import confusion_picture
from .recipes import gains, trials
from .scale import summary as scale_summary
from .sizes import summary
from .speed_pictures import dial_picture, pareto, peers_picture
from .students_summary import beside_ready, many_texts
from .tables import DATA_TITLES, Results, ablations, beside_paper, data_rows, sections, split_rows
from .where_experts_pay import domains, left_out, not_run, paid

MARKS = ("<!-- results -->", "<!-- /results -->")
ALTERNATIVES = ("<!-- alternatives -->", "<!-- /alternatives -->")


def render(results_folder: Path, docs: Path, readme: Path) -> None:
    """Write the rendered pages of `docs/`, their `figures/*.png` and the README between its marks.

    Raises ConfigError, before anything is written, for a README that does not have both marks once.
    """
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if [text.count(mark) for mark in MARKS] != [1, 1] or text.index(MARKS[0]) > text.index(MARKS[1]):
        raise ConfigError(
            f"{readme} must have the marks {' and '.join(MARKS)} once, in this order: the results are written between "
            "them (choose another file with --readme)"
        )
    results = Results(results_folder)
    figures = docs / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    factors, records = ablations(results), interpretability(results_folder, figures)
    compared = sections(results)
    values = {
        "data": data_rows(results),
        "sections": compared,
        "readme": _for_readme(compared),
        "ablations": factors,
        "confusions": _confusions(results, figures),
        "ablation_figures": _ablation_figures(factors, figures),
        "insight": records,
        "split": split_rows(results),
        "tables": {table: beside_paper(results, table) for table in ("table_2", "table_3", "table_4")},
        "runs": sum(not missing for declared in results.declared.values() for missing in declared),
        "wanted": sum(map(len, results.declared.values())),
    }
    environment = templates()
    page = environment.get_template("results.md.jinja").render(**values)
    write_text(docs / "results.md", page)
    bench = results_folder / "bench" / "copy-moe.json"
    if bench.exists():
        speed = {what: _benchmarks(results_folder, what, figures) for what in ("compare", "dial", "peers", "scale")}
        page = environment.get_template("performance.md.jinja").render(
            bench=read_json(bench),
            compressions=compressions(results_folder / "compression"),
            levers=levers(results_folder / "compression"),
            **speed,
        )
        write_text(docs / "performance.md", page)
        page = environment.get_template("scale.md.jinja").render(scale_summary(results_folder, speed["scale"]))
        write_text(docs / "scale.md", page)
    if records:
        page = environment.get_template("interpretability.md.jinja").render(records=records)
        write_text(docs / "interpretability.md", page)
    gain = results_folder / "declared" / "gain.json"
    if gain.exists():
        found = {"gains": gains(results, gain), "trials": trials(results_folder / "search")}
        page = environment.get_template("recipes.md.jinja").render(found)
        write_text(docs / "recipes.md", page)
    if (results_folder / "sizes").is_dir():
        page = environment.get_template("sizes.md.jinja").render(summary(results_folder / "sizes"))
        write_text(docs / "sizes.md", page)
    if (results_folder / "many-texts").is_dir():
        of_texts = results_folder / "domains" / "test-domains.json"
        places = read_json(of_texts) if of_texts.exists() else []
        pays: dict[str, Any] = {"many": many_texts(results_folder / "many-texts"), "trunk": one_trunk(results_folder)}
        pays |= {"domains": domains(results, places), "left_out": left_out(results, places)}
        record = results_folder / "ready" / "emotion.json"
        pays["ready"] = beside_ready(pays["many"]["rows"], read_json(record), results) if record.exists() else None
        pays["label_names"] = results.data[TAUGHT]["label_names"] if TAUGHT in results.data else ()
        pays["drawn"] = gain_picture(pays["many"]["rows"], figures / "gain-over-dense.png")
        pays["added"] = added_domains(results_folder / "domains")
        pays |= {"paid": paid(pays), "not_run": not_run(pays)}
        page = environment.get_template("where-experts-pay.md.jinja").render(pays)
        write_text(docs / "where-experts-pay.md", page)
    block = environment.get_template("readme.md.jinja").render(**values)
    write_text(readme, between(text, MARKS, block))
    record = results_folder / "bench" / "peers__compressed-tweets-s0.json"
    how_to = docs / "how-to" / "faster.md"
    if record.exists() and how_to.exists():
        block = environment.get_template("alternatives.md.jinja").render(rows=alternatives(read_json(record)))
        write_text(how_to, between(how_to.read_text(encoding="utf-8"), ALTERNATIVES, block))


def templates() -> Environment:
    """Those of the pages, with the filters that write figures."""
    found = Environment(
        loader=PackageLoader("experiments"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters |= {
        "score": lambda value: f"{value:.4f}",
        "signed": lambda value: f"{100 * value:+.2f}",
        "p": lambda value: "-" if value is None else f"{value:.2g}",
        "capitalize_first": lambda text: text[:1].upper() + text[1:],
        "two": lambda value: f"{value:.2f}",
        "percent": lambda value: f"{100 * value:.0f}%",
        "three": lambda value: "-" if value is None else f"{value:.3f}",
        "thousands": lambda value: f"{value:,}",
        "millions": lambda value: f"{value / 1e6:.2f}",
        "processor": lambda row: ", ".join([row["processor"], *row.get("bfloat16", [])]),
        "made_in": made_in,
        "rate": lambda row: f"{row['texts_per_second']:.0f} ({row['quartiles'][0]:.0f} - {row['quartiles'][1]:.0f})",
    }
    return found


def made_in(row: dict[str, Any]) -> str:
    """Seconds; of a compressed model whose folder did not say them, only the loading was counted."""
    unknown = row["name"].endswith("-fast") and row["seconds"] < 10
    return "not measured" if unknown else f"{row['seconds']:.0f} s"


def between(text: str, marks: tuple[str, str], block: str) -> str:
    """The text with the block between the marks, in the place of what was there."""
    before, after = text.partition(marks[0])[0], text.partition(marks[1])[2]
    return f"{before}{marks[0]}\n{block}\n{marks[1]}{after}"


def alternatives(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What a user could do instead of compressing, slowest first. times: relative to the dense model on OpenVINO."""
    dense = "sentimoe, dense, OpenVINO"
    titles = {dense: "the original, OpenVINO", "sentimoe, tweets-s0-fast": "**compressed at 2%**"}
    found = [
        row | {"title": titles.get(row["name"], row["name"]), "times": row["as_fast_as"][dense]}
        for row in record["rows"]
        if not row.get("missing")
    ]
    return sorted(found, key=lambda row: row["texts_per_second"])


def _for_readme(compared: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Every data set with its rows, one for each backbone: gated experts beside the dense model, in weighted F1."""
    found: dict[str, list[dict[str, Any]]] = {}
    for section in compared:
        rows = {row["name"]: row for row in section["rows"] if not row["missing"]}
        gated = rows.get("moe-gated", {})
        if "against" in gated:
            found.setdefault(section["title"], []).append(
                {
                    "model": section["model"],
                    "seeds": gated["seeds"],
                    "dense": rows["full"]["f1_weighted"]["mean"],
                    "gated": gated["f1_weighted"]["mean"],
                    "difference": gated["against"]["f1_weighted"],
                }
            )
    return list(found.items())


def _benchmarks(results_folder: Path, what: str, figures: Path) -> list[dict[str, Any]]:
    """The records of `sentimoe bench` of one kind, with a title and, where they have quality, a picture."""
    found = []
    for path in sorted((results_folder / "bench").glob(f"{what}__*.json")):
        record = read_json(path)
        record["title"] = f"{path.stem.partition('__')[2]}, {record['data']}"
        picture = figures / f"{path.stem}.png"
        record["figure"] = f"figures/{picture.name}" if any("f1_weighted" in row for row in record["rows"]) else ""
        if what == "dial":
            dial_picture(record["rows"], picture, record["title"])
        if what == "peers":
            record["front"] = pareto(record["rows"])
            if record["figure"]:
                peers_picture(record["rows"], record["front"], picture, record["title"])
        found.append(record)
    return found


def _confusions(results: Results, figures: Path) -> list[dict[str, str]]:
    """Figure 3: the confusion matrix of gated experts on each data set, summed over the seeds."""
    found = []
    for data, model in results.pairs():
        runs = results.cells.get((data, model, "moe-gated", "default"), [])
        if runs:
            matrix = sum(np.array(run.record["test"]["confusion_matrix"]) for run in runs)
            name = f"confusion-{data}-{model.replace('/', '-')}.png"
            title = f"{DATA_TITLES.get(data, data)}, {model}, {len(runs)} seed{'s' * (len(runs) > 1)}"
            confusion_picture(np.asarray(matrix), runs[0].record["label_names"], figures / name, title)
            found.append({"file": name, "title": title})
    return found


def _ablation_figures(factors: list[dict[str, Any]], figures: Path) -> list[dict[str, str]]:
    found = []
    for factor in factors:
        if factor["numeric"]:
            name = f"ablation-{factor['title'].replace(' ', '-')}.png"
            ablation_picture({"title": factor["title"], "rows": factor["finished"]}, figures / name)
            found.append({"file": name, "title": factor["title"]})
    return found
