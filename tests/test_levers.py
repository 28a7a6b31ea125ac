"""`python -m experiments levers` and `compression`, whole, on a tiny model."""

from pathlib import Path

import pandas as pd
import pytest
from backbone import labelled_texts, write_backbone

from experiments import compression, levers
from experiments.compression import CASES, Case, trained
from sentimoe import SentimentClassifier
from sentimoe.compression.variants import Lever

pytest.importorskip("openvino")


def write_case(folder, monkeypatch):
    """A case of one word a label."""
    texts, labels = labelled_texts(700)
    frame = pd.DataFrame({"text": texts, "label": labels})
    (folder / "words").mkdir()
    for split, rows in {"train": slice(0, 450), "validation": slice(450, 550), "test": slice(550, 700)}.items():
        frame[rows].to_parquet(folder / "words" / f"{split}.parquet")
    case = Case("words", write_backbone(folder / "backbone"), 32, None, 450, train_texts=120, epochs=1)
    monkeypatch.setitem(CASES, "words", case)
    return {"data_root": folder, "work": folder / "work", "results": folder / "results"}


@pytest.mark.slow
def test_what_compress_gains_is_measured_on_test_texts(tmp_path, monkeypatch):
    """The figures of the first page: labels that differ, F1 of the right model, and a ratio that is not upside down."""
    where = write_case(tmp_path, monkeypatch)
    for name, value in {"TOLERANCE": 0.1, "MINUTES": 0.01, "SINGLE_TEXTS": 3, "OTHER_KINDS": {}}.items():
        monkeypatch.setattr(compression, name, value)

    def twice_as_long(tasks, rounds):
        for task in tasks.values():
            task()
        return {name: [2.0 if name == "original" else 1.0] * rounds for name in tasks}

    monkeypatch.setattr(compression, "interleaved", twice_as_long)
    compression.run_case("words", 0, **where, progress=lambda line: None)
    (record,) = compression.compressions(tmp_path / "results")
    test = pd.read_parquet(tmp_path / "words" / "test.parquet")
    original = SentimentClassifier.from_pretrained(tmp_path / "work" / "words-s0", precision="float32")
    assert [row["kind"] for row in record["elsewhere"]] == ["test texts"]
    for row in record["test"]:
        tolerance = row["tolerance"]
        fast = SentimentClassifier.from_pretrained(tmp_path / "work" / "words-s0-fast", max_disagreement=tolerance)
        differ = fast.predict(test["text"]) != original.predict(test["text"])
        assert row["differ"] == differ.sum() <= 0.2 * len(test) and row["texts"] == len(test) == 150
        assert row["speed"]["ratio"] == row["single"]["ratio"] == 2
        assert row["texts_per_second"] == 2 * row["original_texts_per_second"] == 150


@pytest.mark.slow
def test_each_way_is_measured_with_and_without_split_experts(tmp_path, monkeypatch):
    where = write_case(tmp_path, monkeypatch)
    monkeypatch.setattr(levers, "default_levers", lambda layers: [Lever((1,), False)])
    monkeypatch.setattr(levers, "ROUNDS", 2)
    monkeypatch.setattr(levers, "EPOCHS", 1)
    told: list[str] = []
    trained("words", 0, where["work"] / "words-s0", tmp_path / "words", told.append)
    levers.measure("words", 0, **where, progress=told.append)
    (record,) = levers.records(tmp_path / "results")
    rows = record["rows"]
    assert [(row["split"], bool(row["lever"]["cuts"]), row["tolerance"]) for row in rows] == [
        (split, exits, tolerance)
        for split in (False, True)
        for exits in (False, True)
        for tolerance in levers.TOLERANCES
    ]
    alone = [row for row in rows if not row["split"] and not row["lever"]["cuts"]]
    assert all(row["differ"] <= 0.02 and row["mean_layers"] == 2 and row["within"] for row in alone)
    assert all(row["mean_layers"] <= 2 and row["speed"]["ratio"] > 0 for row in rows)
    levers.measure("words", 0, **where, progress=lambda line: pytest.fail("measured again"))
    assert Path(tmp_path / "work" / "words-s0-split-of-learn" / "run.json").exists()
    learned = pd.read_parquet(tmp_path / "work" / "words-s0-learn" / "train.parquet")["text"]
    assert record["taught_on"] == len(learned) < 450 - record["choose"]  # none that measures
