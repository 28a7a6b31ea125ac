"""Declared studies: what a file stands for, resuming, tuning on validation, budgets."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from backbone import labelled_texts, write_backbone

from sentimoe.errors import ConfigError
from sentimoe.studies.render import render
from sentimoe.studies.runner import read_study, run_study


@pytest.fixture
def study(tmp_path):
    texts, labels = labelled_texts(120)
    frame = pd.DataFrame({"text": texts, "label": labels})
    (tmp_path / "toy").mkdir()
    frame[:80].to_csv(tmp_path / "toy" / "train.csv", index=False)
    frame[80:100].to_csv(tmp_path / "toy" / "validation.csv", index=False)
    frame[100:].to_csv(tmp_path / "toy" / "test.csv", index=False)
    backbone = write_backbone(tmp_path / "backbone")
    declared = {
        "data": {"toy": {"max_length": 32, "epochs": 4, "precision": "float32"}},
        "models": {backbone: {"batch_size": 16}},
        "methods": {
            "full": {"tune": [0.01, 50]},
            "moe-gated": {"learning_rate": 5e-3, "method_settings": {"layers_to_transform": [-1]}},
        },
        "runs": [
            {"data": "toy", "model": backbone, "method": ["full", "moe-gated"], "seed": [0, 1]},
            {"data": "toy", "model": backbone, "method": "moe-gated", "seed": 0, "recipe": "k-1"}
            | {"method_settings": {"num_experts_per_tok": 1}},
        ],
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(declared))
    return path


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*")}


def test_a_study_from_file_to_results(study, tmp_path):
    runs, results = read_study(study), tmp_path / "results"
    assert len(runs) == 5 and runs[4].settings["method_settings"] == {
        "layers_to_transform": [-1],
        "num_experts_per_tok": 1,
    }
    quiet = {"data_root": tmp_path, "say": lambda line: None}
    assert run_study(runs, results, wanted=lambda run: "full" in run.name, **quiet) == 0
    before = files(results / "runs")
    assert len(before) == 4
    assert run_study(runs, results, **quiet) == 0
    after = files(results / "runs")
    assert len(after) == 10 and before.items() <= after.items()  # what existed was not run again

    tuning = [json.loads(path.read_text()) for path in (results / "tuning").glob("*.json")]
    assert len(tuning) == 2 and not any("test" in record for record in tuning)  # selection never sees the test split
    best = max(tuning, key=lambda record: record["validation"]["f1_weighted"])
    assert len({record["validation"]["f1_weighted"] for record in tuning}) == 2  # no tie: the choice is a choice
    record = json.loads((results / "runs" / f"{runs[1].name}.json").read_text())
    assert record["hyperparameters"]["learning_rate"] == best["hyperparameters"]["learning_rate"]
    assert {"data", "model", "method", "seed", "recipe", "versions", "data_sha256", "hardware", "seconds"} <= set(
        record
    )
    assert (record["data"], record["method"], record["seed"], record["recipe"]) == ("toy", "full", 1, "default")
    cost = record["cost"]
    assert (
        cost["active_parameters"] == cost["parameters"] == cost["trainable_parameters"] and cost["gflops_per_text"] > 0
    )
    for split in ("validation", "test"):
        assert set(record[split]) >= {"accuracy", "f1_weighted", "f1_macro", "n"} and record[split]["n"] == 20

    stored = np.load(results / "runs" / f"{runs[4].name}.npz")
    sparse = json.loads((results / "runs" / f"{runs[4].name}.json").read_text())
    assert (stored["labels"] == stored["predictions"]).mean() == pytest.approx(sparse["test"]["accuracy"])
    assert sparse["cost"]["active_parameters"] < sparse["cost"]["parameters"] and sparse["recipe"] == "k-1"

    # what is rendered comes from these files alone
    (results / "paper.yaml").write_text("table_2: {sst5: {dense: 0.5, moe: 0.6}}")
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n<!-- results -->\nstale\n<!-- /results -->\nrest\n")
    render(results, tmp_path / "docs", readme)
    page, front = (tmp_path / "docs" / "results.md").read_text(), readme.read_text()
    of_method = [json.loads(path.read_text()) for path in (results / "runs").glob("*__full__default__*.json")]
    mean = sum(item["test"]["f1_weighted"] for item in of_method) / 2
    assert f"{mean:.4f}" in page and f"{mean:.4f}" in front and "+10.00" in page
    assert "stale" not in front and front.startswith("# Title") and front.endswith("rest\n")
    assert [path for path in (tmp_path / "docs" / "figures").glob("*.png") if path.stat().st_size > 5000]


def test_a_budget_that_is_spent_starts_nothing(study, tmp_path):
    assert run_study(read_study(study), tmp_path / "results", budget=1.0, data_root=tmp_path) == 5
    declared = json.loads((tmp_path / "results" / "declared.json").read_text())
    assert [row["missing"] for row in declared] == ["pending"] * 5
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["declared.json"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"method": "magic"}, "not listed under methods"),
        ({"colour": 1}, "unknown keys"),
        ({"data": "none"}, "under data"),
    ],
)
def test_mistakes_in_a_study_file(study, change, reason):
    declared = yaml.safe_load(study.read_text())
    declared["runs"] = [declared["runs"][0] | change]
    study.write_text(yaml.safe_dump(declared))
    with pytest.raises(ConfigError, match=reason):
        read_study(study)


def test_the_papers_study_is_valid():
    from pathlib import Path

    runs = read_study(Path(__file__).parents[1] / "studies" / "paper.yaml")
    assert len({run.name for run in runs}) == len(runs)
    assert all(run.config(None).epochs >= 1 for run in runs)
