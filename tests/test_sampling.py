"""Texts that stand for a split are chosen at random: a file may be sorted, and its first rows are of one class."""

import ast
import json
from dataclasses import replace
from pathlib import Path

from backbone import labelled_texts, write_backbone

from experiments import demo
from sentimoe.bench.speed import BenchTexts
from sentimoe.data import Split

ROOT = Path(__file__).parents[1]


def test_no_code_takes_the_first_rows_of_a_split():
    """Kind: a table of "512 test tweets" that were all of one class."""
    found = []
    for folder in ("src", "experiments", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Subscript(value=ast.Attribute(attr="texts" | "labels"), slice=ast.Slice(lower=None)):
                        found.append(str(path.relative_to(ROOT)))
    assert not found


def test_texts_of_a_benchmark_are_of_all_classes():
    texts = [f"text {number}" for number in range(200)]
    sampled = BenchTexts.of("sorted", Split(texts, [0] * 100 + [1] * 100), ("a", "b")).sample(40)
    assert len(set(sampled)) == 40 and 10 < sum(int(text.split()[1]) < 100 for text in sampled) < 30


def test_the_demo_reads_texts_of_all_classes_and_says_what_it_does(tmp_path, monkeypatch, capsys):
    """Its test texts are sorted by class; its lines go to a log too."""
    texts, labels = labelled_texts(60)
    rows = sorted(zip([*texts, *(f"a thing {n}" for n in range(30))], [*labels, *["neutral"] * 30], strict=True))
    rows.sort(key=lambda row: row[1])
    for name in ("train", "validation", "test"):
        lines = [json.dumps({"text": f"{text} {name}", "label": label}) for text, label in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    settings = {"model": write_backbone(tmp_path / "tiny"), "data": str(tmp_path), "train_limit": 60, "epochs": 1}
    monkeypatch.setattr(demo, "CONFIG", replace(demo.CONFIG, **settings))
    monkeypatch.setattr(demo, "LOAD_TEXTS", 30)
    read = []
    count = demo.mean_expert_load
    monkeypatch.setattr(demo, "mean_expert_load", lambda engine, texts: read.extend(texts) or count(engine, texts))
    demo.demo(tmp_path / "run")
    assert {labels for text, labels in rows if f"{text} test" in read} == {"negative", "neutral", "positive"}
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("demo: ")]
    assert len(said) == 4 and "answering 90 test texts" in said[1]
    assert "30 test tweets chosen at random" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
