"""docs/recipes.md: gated experts beside every other recipe, from stored runs that are planted here."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from sentimoe.studies.perform import write_run
from sentimoe.studies.recipes import gains, trials
from sentimoe.studies.records import write_json
from sentimoe.studies.render import render
from sentimoe.studies.tables import Results

LABELS = np.arange(200) % 4


def plant(results, method, seed, wrong, *, recipe="default", gflops=1.0, epochs=3):
    """A finished run that answers 0 to `wrong` texts, other ones for every seed."""
    predictions = LABELS.copy()
    predictions[np.random.default_rng(seed).permutation(200)[:wrong]] = 0
    scores = {
        "f1_weighted": f1_score(LABELS, predictions, average="weighted"),
        "f1_macro": f1_score(LABELS, predictions, average="macro"),
        "accuracy": float((predictions == LABELS).mean()),
    }
    cell = {"data": "sst5", "model": "tiny", "method": method, "recipe": recipe, "seed": seed}
    matrix = np.histogram2d(LABELS, predictions, bins=range(5))[0].astype(int).tolist()
    record = cell | {
        "hyperparameters": {"epochs": epochs, "learning_rate": 1e-4, "method_settings": {}},
        "validation": {"f1_weighted": 0.5 + seed / 100},
        "test": scores | {"n": 200, "ece": 0.0, "confusion_matrix": matrix},
        "label_names": list("abcd"),
        "cost": {
            "gflops_per_text": gflops,
            "training_seconds": 60.0,
            "trainable_parameters": 1,
            "parameters": 1,
            "active_parameters": 1,
        },
    }
    write_run(results / "runs" / "__".join(map(str, cell.values())), record, LABELS, predictions)
    return cell | {"missing": ""}, scores


@pytest.fixture
def results(tmp_path):
    dense = [plant(tmp_path, "full", seed, 60 + seed) for seed in (0, 1, 2, 7)]
    longer = [plant(tmp_path, "full", seed, 20, recipe="longer", epochs=6) for seed in (0, 1)]
    gated = [plant(tmp_path, "moe-gated", seed, 30, gflops=1.5) for seed in (0, 1, 2, 3)]
    pending = {"data": "sst5", "model": "tiny", "method": "moe-plain", "recipe": "default", "seed": 0}
    (tmp_path / "declared").mkdir()
    declared = [cell for cell, _ in (*dense, *longer, *gated)]
    write_json(tmp_path / "declared" / "gain.json", [*declared, pending | {"missing": "pending"}])
    (tmp_path / "paper.yaml").write_text("{table_1: {}, table_2: {}, table_3: {}, table_4: {}}")
    return tmp_path


def test_gated_experts_less_each_recipe_over_the_seeds_of_both(results):
    (table,) = gains(Results(results), results / "declared" / "gain.json")
    dense, longer, gated, plain = table["rows"]
    assert [row["name"] for row in table["rows"]] == ["full", "full, longer", "moe-gated", "moe-plain"]
    assert dense["seeds"] == 4 and dense["less"]["seeds"] == 3 and "less" not in gated
    # seed 7 has no gated run, seed 3 no dense one
    both = [
        [plant(results, method, seed, wrong)[1]["f1_weighted"] for seed, wrong in zip((0, 1, 2), wrongs, strict=True)]
        for method, wrongs in (("moe-gated", (30, 30, 30)), ("full", (60, 61, 62)))
    ]
    found = dense["less"]["f1_weighted"]
    assert (
        found["test"]["difference"] == pytest.approx(np.mean(both[0]) - np.mean(both[1]))
        and found["test"]["distinguishable"]
    )
    assert found["over_seeds"]["difference"] == pytest.approx(found["test"]["difference"])
    assert longer["less"]["f1_macro"]["test"]["difference"] < 0
    assert [row.get("compute") for row in table["rows"]] == [1.0, 2.0, 1.5, None]
    assert dense["validation"] == pytest.approx(0.525) and plain["missing"] == "pending"


def test_what_was_tried_is_the_mean_of_its_seeds(results):
    for variant, seed, score in (("dense", 0, 0.5), ("dense", 1, 0.7), ("gated", 0, 0.25)):
        told = {"question": "Capacity?", "variant": variant, "seed": seed, "seconds": 90}
        (results / "search").mkdir(exist_ok=True)
        write_json(results / "search" / f"{variant}-{seed}.json", told | {"validation": {"weighted F1": score}})
    (table,) = trials(results / "search")
    assert table["rows"][0] == {"name": "dense", "seeds": 2, "minutes": 3.0, "weighted F1": pytest.approx(0.6)}
    (results / "README.md").write_text("<!-- results --><!-- /results -->")
    render(results, results / "docs", results / "README.md")
    page = (results / "docs" / "recipes.md").read_text()
    assert "| dense | 2 | 0.6000 | 3 |" in page and "| moe-plain | 0 of 1 | pending |" in page
    assert "| full, longer | 2 | 0.0001 | 2.00 | 60 | 0.5050 |" in page
