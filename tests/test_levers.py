"""`python -m experiments levers`, whole, on a tiny model: every way with the dense model and with split experts."""

from pathlib import Path

import pandas as pd
import pytest
from backbone import labelled_texts, write_backbone

from experiments import levers
from experiments.compression import CASES, Case, trained
from sentimoe.compression.variants import Lever

pytest.importorskip("openvino")


@pytest.mark.slow
def test_each_way_is_measured_with_and_without_split_experts(tmp_path, monkeypatch):
    texts, labels = labelled_texts(700)
    frame = pd.DataFrame({"text": texts, "label": labels})
    (tmp_path / "words").mkdir()
    for split, rows in {"train": slice(0, 450), "validation": slice(450, 550), "test": slice(550, 700)}.items():
        frame[rows].to_parquet(tmp_path / "words" / f"{split}.parquet")
    case = Case("words", write_backbone(tmp_path / "backbone"), 32, None, 450, train_texts=120, epochs=1)
    monkeypatch.setitem(CASES, "words", case)
    monkeypatch.setattr(levers, "default_levers", lambda layers: [Lever((1,), False)])
    monkeypatch.setattr(levers, "ROUNDS", 2)
    monkeypatch.setattr(levers, "EPOCHS", 1)
    where = {"data_root": tmp_path, "work": tmp_path / "work", "results": tmp_path / "results"}
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
