"""docs/recipes.md: gated experts beside every other recipe, from stored runs that are planted here."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp
from sklearn.metrics import f1_score

from experiments.perform import write_run
from experiments.recipes import gains, trials
from experiments.render import render
from experiments.tables import Results
from sentimoe.evaluation import paired_bootstrap
from sentimoe.records import write_json

LABELS = np.repeat(range(4), (100, 50, 30, 20))  # unequal, so that weighted and macro F1 differ


def plant(results, method, seed, wrong, *, recipe="default", gflops=1.0, epochs=3, texts="a"):
    """A finished run that answers the next class to `wrong` texts, other ones for every seed."""
    predictions = LABELS.copy()
    predictions[np.random.default_rng(seed).permutation(200)[:wrong]] += 1
    predictions %= 4
    scores = {
        "f1_weighted": f1_score(LABELS, predictions, average="weighted"),
        "f1_macro": f1_score(LABELS, predictions, average="macro"),
        "accuracy": float((predictions == LABELS).mean()),
    }
    cell = {"data": "sst5", "model": "tiny", "method": method, "recipe": recipe, "seed": seed}
    matrix = np.histogram2d(LABELS, predictions, bins=range(5))[0].astype(int).tolist()
    record = cell | {
        "data_sha256": texts,
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
    phrases = [plant(tmp_path, "full", 0, 10, recipe="phrases", epochs=1, texts="b")]
    phrases += [plant(tmp_path, "moe-gated", 0, 14, recipe="phrases", epochs=1, texts="b", gflops=1.5)]
    pending = {"data": "sst5", "model": "tiny", "method": "moe-plain", "recipe": "default", "seed": 0}
    (tmp_path / "declared").mkdir()
    declared = [cell for cell, _ in (*dense, *longer, *gated, *phrases)]
    write_json(tmp_path / "declared" / "gain.json", [*declared, pending | {"missing": "pending"}])
    (tmp_path / "paper.yaml").write_text("{table_1: {}, table_2: {}, table_3: {}, table_4: {}}")
    return tmp_path


def test_gated_experts_less_each_recipe_over_the_seeds_of_both(results):
    (table,) = gains(Results(results), results / "declared" / "gain.json")
    dense, longer, gated, phrases, gated_phrases, plain = table["rows"]
    names = ["full", "full, longer", "moe-gated", "full, phrases", "moe-gated, phrases", "moe-plain"]
    assert [row["name"] for row in table["rows"]] == names
    assert dense["seeds"] == 4 and dense["less"]["seeds"] == 3 and "less" not in gated
    # seed 7 has no gated run, seed 3 no dense one
    stored = Results(results).cells
    ours, theirs = (stored["sst5", "tiny", method, "default"][:3] for method in ("moe-gated", "full"))
    for metric in ("f1_weighted", "f1_macro"):
        found = dense["less"][metric]
        differences = [a.record["test"][metric] - b.record["test"][metric] for a, b in zip(ours, theirs, strict=True)]
        assert found["test"]["difference"] == pytest.approx(np.mean(differences))
        assert found["over_seeds"]["p_value"] == pytest.approx(ttest_1samp(differences, 0).pvalue)
        expected = paired_bootstrap(
            LABELS, [run.predictions for run in ours], [run.predictions for run in theirs], metric, paired_seeds=True
        )
        assert found["test"]["interval"] == expected["interval"] and found["test"]["interval"][0] > 0
    weighted, macro = (dense["less"][metric]["test"]["difference"] for metric in ("f1_weighted", "f1_macro"))
    assert weighted != pytest.approx(macro, rel=1e-3)
    assert longer["less"]["f1_macro"]["test"]["difference"] < 0
    # what was trained on other texts is compared among itself
    assert phrases["less"]["f1_weighted"]["test"]["difference"] < 0 and "less" not in gated_phrases
    assert [row.get("compute") for row in table["rows"]] == [1.0, 2.0, 1.5, 1.0, 1.5, None]
    assert dense["validation"] == pytest.approx(0.525) and plain["missing"] == "pending"


def test_what_was_tried_is_the_mean_of_its_seeds(results):
    for variant, seed, score in (("dense", 0, 0.5), ("dense", 1, 0.7), ("gated", 0, 0.25)):
        told = {"question": "Capacity?", "variant": variant, "seed": seed, "seconds": 90}
        (results / "search").mkdir(exist_ok=True)
        write_json(results / "search" / f"{variant}-{seed}.json", told | {"validation": {"weighted F1": score}})
    (table,) = trials(results / "search")
    assert table["rows"][0] == {"name": "dense", "seeds": [0, 1], "minutes": 1.5, "weighted F1": pytest.approx(0.6)}
    (results / "README.md").write_text("<!-- results --><!-- /results -->")
    render(results, results / "docs", results / "README.md")
    page = (results / "docs" / "recipes.md").read_text()
    assert "| dense | 0, 1 | 0.6000 | 2 |" in page and "| moe-plain | 0 of 1 | pending |" in page
    less = gains(Results(results), results / "declared" / "gain.json")[0]["rows"][0]["less"]
    cells = [
        f"{100 * d['difference']:+.2f} ({100 * d['interval'][0]:+.2f} to {100 * d['interval'][1]:+.2f}), "
        f"p = {d['p_value']:.2g}; {less[metric]['over_seeds']['p_value']:.2g}, 3 seeds"
        for metric, d in ((metric, less[metric]["test"]) for metric in ("f1_weighted", "f1_macro"))
    ]
    assert f"| {cells[0]} | {cells[1]} |" in page
    assert "| full, longer | 2 | 0.0001 | 2.00 | 60 | 0.5050 |" in page
