"""Answers that one can defend: temperature, abstention, groups and ordered classes, by hand and by simulation."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from command import invoke
from scipy.stats import binomtest
from sklearn.model_selection import KFold

from sentimoe.errors import ConfigError, DataError
from sentimoe.evaluation import (
    ORDERED,
    bootstrap_intervals,
    calibration,
    compare_predictions,
    expected_calibration_error,
    find_threshold,
    fit_temperature,
    group_metrics,
    holm,
    least_trials,
    most_frequent,
    ordinal_metrics,
    paired_bootstrap,
    reliability_bins,
    risk_coverage,
    why_no_threshold,
)
from sentimoe.evaluation.confusion import score_confusion
from sentimoe_cli.sides import ModelSide, names_of


def overconfident(count, temperature, seed=0):
    """Answers whose logits are `temperature` times too large, and labels drawn from the true probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 3)) * 2

    def at(scale):
        scaled = logits * temperature / scale
        whole = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return whole / whole.sum(axis=1, keepdims=True)

    true = at(temperature)
    labels = (true.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return at, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found(temperature):
    at, labels = overconfident(20_000, temperature)
    assert fit_temperature(at, labels) == pytest.approx(temperature, rel=0.03)


def test_the_error_after_scaling_is_that_of_texts_which_the_temperature_did_not_see():
    at, labels = overconfident(2_000, 3.0)
    told = calibration(at, labels)
    assert told["ece_before"] > 0.15 and told["ece_after"] < 0.05 and told["n"] == 2_000
    scaled = np.empty((2_000, 3))
    for fitted, held_out in KFold(5, shuffle=True, random_state=0).split(labels):
        part = fit_temperature(lambda scale, rows=fitted: at(scale)[rows], labels[fitted])
        scaled[held_out] = at(part)[held_out]
    assert told["ece_after"] == pytest.approx(expected_calibration_error(reliability_bins(labels, scaled)))


def test_blank_texts_take_no_part_in_a_temperature():
    at, labels = overconfident(500, 2.0)

    def with_blanks(scale):
        answers = at(scale).copy()
        answers[::5] = math.nan
        return answers

    shuffled = labels.copy()
    shuffled[::5] = (labels[::5] + 1) % 3
    assert fit_temperature(with_blanks, labels) == fit_temperature(with_blanks, shuffled)
    with pytest.raises(DataError, match="no text has an answer"):
        fit_temperature(lambda scale: np.full((5, 3), math.nan), np.zeros(5, dtype=int))
    with pytest.raises(DataError, match="needs 5 labelled texts"):
        calibration(at, labels[:3])


def test_how_many_texts_a_promise_takes():
    assert [least_trials(1 - target) for target in (0.9, 0.95, 0.99)] == [29, 59, 299]
    with pytest.raises(DataError, match=r"58 labelled texts cannot show an accuracy of 0\.95: .* it takes 59"):
        find_threshold(np.ones(58), np.ones(58, dtype=bool), 0.95)
    found = find_threshold(np.ones(59), np.ones(59, dtype=bool), 0.95)
    assert found.n == 59 and found.lower_bound >= 0.95
    with pytest.raises(ConfigError, match="target_accuracy=95"):
        find_threshold(np.ones(59), np.ones(59, dtype=bool), 95)


def test_the_loosest_threshold_before_the_first_failure():
    sure = np.repeat([0.97, 0.8, 0.6], [200, 200, 200])
    right = np.ones(600, dtype=bool)
    right[400:460] = False  # of the least sure ones 60 are wrong
    found = find_threshold(sure, right, 0.95)
    assert found.value == pytest.approx(0.605) and found.coverage == pytest.approx(2 / 3) and found.accuracy == 1
    sure = np.repeat([0.97, 0.8], [400, 4000])
    right = np.ones(4400, dtype=bool)
    right[:40] = False  # the surest ones fail; the others would pass, and may not be looked at any more
    assert find_threshold(sure, right, 0.95) is None and find_threshold(sure[350:], right[350:], 0.95) is not None


def test_a_weak_model_is_not_judged_by_its_surest_few():
    """Kind: a target of 0.3 was refused to answers of which 36% are right, for 2 errors among the surest 3."""
    sure = np.linspace(0.9, 0.3, 1800)
    right = np.arange(1800) % 25 < 9  # 36%
    right[:20], right[20:40] = np.arange(20) % 5 > 2, np.arange(20) % 4 > 0  # 40%, 75%
    found = find_threshold(sure, right, 0.3)
    assert found is not None and found.coverage > 0.9 and 0.3 <= found.lower_bound < 0.37
    assert "of the 50 surest answers, with which the search starts, 46.0% are right" in why_no_threshold(
        sure, right, 0.6
    )
    assert "Give a lower target, or train on more labelled texts" in why_no_threshold(sure, right, 0.6)
    assert "says little on these texts" in why_no_threshold(sure, np.sort(right), 0.6)
    assert "That is close" in why_no_threshold([0.9, 0.8, 0.7, 0.6] * 30, ([True] * 3 + [False]) * 30, 0.93)


def test_two_errors_among_the_surest_few_do_not_end_the_search():
    """Kind: wrong labels in the file; of 397 texts 78% are right, and 75% could not be promised."""
    rng = np.random.default_rng(0)
    sure = np.sort(rng.uniform(0.3, 0.999, 397))[::-1]
    right = rng.random(397) < 0.84
    right[:21] = True
    right[[3, 11]] = False
    found = find_threshold(sure, right, 0.75)
    assert found is not None and found.coverage > 0.7


def test_of_few_texts_accuracy_and_coverage_are_cross_fitted():
    """Kind: the accuracy of texts that the threshold was chosen on is told as if it were that of others."""
    rng = np.random.default_rng(3)
    sure = rng.uniform(0.4, 1, size=1000)
    right = rng.random(1000) < sure**0.2
    few, many = find_threshold(sure[:300], right[:300], 0.9), find_threshold(sure, right, 0.9)
    assert few.estimated and not many.estimated and "cross-fitted estimate" in str(few) and "estimate" not in str(many)
    answered = np.zeros(300, dtype=bool)
    for chosen_on, held_out in KFold(5, shuffle=True, random_state=0).split(sure[:300]):
        part = find_threshold(sure[chosen_on], right[chosen_on], 0.9)
        answered[held_out] = part is not None and sure[held_out] >= part.value
    assert few.coverage == answered.mean() != (sure[:300] >= few.value).mean()
    assert few.accuracy == right[:300][answered].mean() and many.coverage == (sure >= many.value).mean()
    few = find_threshold(np.ones(60), np.ones(60, dtype=bool), 0.95)  # 48 texts choose no threshold
    assert few.accuracy is None and few.coverage is None and "60 texts are too few to estimate their share" in str(few)
    assert find_threshold(np.ones(75), np.ones(75, dtype=bool), 0.95).coverage == 1  # 60 do


def test_unanswered_texts_are_below_every_threshold():
    sure = np.append(np.full(300, 0.9), np.full(100, math.nan))
    found = find_threshold(sure, np.append(np.ones(300), np.zeros(100)).astype(bool), 0.95)
    assert found.coverage == pytest.approx(0.75) and found.accuracy == 1


@pytest.mark.parametrize("slope", [0.02, 0.1, 0.5])
def test_a_promise_is_broken_in_at_most_five_of_a_hundred_worlds(slope):
    """Worlds in which many thresholds lie just above and just below the target: the whole search, 1,000 times."""
    rng, broken, found_any = np.random.default_rng(7), 0, 0

    def accuracy_at(sure):
        return np.clip(0.95 + slope * (sure - 0.7), 0, 1)

    def accuracy_from(threshold):
        grid = np.linspace(max(threshold, 0.4), 1, 4001)
        return accuracy_at(grid).mean()

    for _ in range(1000):
        sure = rng.uniform(0.4, 1, size=1000)
        found = find_threshold(sure, rng.random(1000) < accuracy_at(sure), 0.95)
        found_any += found is not None
        broken += found is not None and accuracy_from(found.value) < 0.95
    assert found_any > 30
    assert binomtest(broken, 1000, 0.05, alternative="greater").pvalue > 0.01, broken


def test_risk_and_coverage_by_hand():
    curve = risk_coverage([0.9, 0.8, 0.8, 0.6, math.nan], [True, False, True, False, False])
    assert curve["coverage"] == pytest.approx([0.2, 0.6, 0.8]) and curve["risk"] == pytest.approx([0, 1 / 3, 0.5])
    assert curve["aurc"] == pytest.approx((1 * 0 + 2 / 3 + 0.5) / 4)
    assert risk_coverage([math.nan], [False]) == {"coverage": [], "risk": [], "aurc": None}


def test_groups_that_are_worse_are_told_from_small_ones():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=900)
    groups = np.repeat(["phones", "books", "tiny"], [500, 390, 10])
    right = np.where(groups == "books", rng.random(900) < 0.7, True)
    right[-1] = False
    predicted = np.where(right, labels, 1 - labels)
    rows = group_metrics(groups.tolist(), labels, np.eye(2)[predicted], ["neg", "pos"])
    assert [row["group"] for row in rows] == ["phones", "books", "tiny"]
    assert [row["worse"] for row in rows] == [False, True, False]
    assert rows[1]["n"] == 390 and rows[1]["accuracy"] == pytest.approx(right[500:890].mean())
    assert rows[1]["intervals"]["accuracy"][0] < rows[1]["accuracy"] < rows[1]["intervals"]["accuracy"][1]
    (whole,) = group_metrics(["all"] * 4, [0, 1, 0, 1], np.eye(2)[[0, 1, 1, 1]], ["a", "b"])
    assert whole["p_worse"] == 1 and not whole["worse"]


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])


def test_ordered_classes_by_hand():
    told = ordinal_metrics([0, 1, 2, 4, 3], [0, 2, 2, 1, -1], 5)
    assert told["mae"] == pytest.approx(1.0) and told["within_one"] == pytest.approx(0.75)
    assert told["quadratic_kappa"] == pytest.approx(1 - (10 / 4) / (50 / 16))
    assert ordinal_metrics([1], [-1], 3) == {"mae": None, "within_one": None, "quadratic_kappa": None}
    assert ordinal_metrics([1, 1], [1, 1], 3)["quadratic_kappa"] is None
    pair = paired_bootstrap([0, 1, 2, 4, 3], [0, 2, 2, 1, -1], [0, 1, 2, 3, 1], "mae", num_classes=5)
    assert pair["mean_a"] == pytest.approx(1.0) and pair["mean_b"] == pytest.approx(3 / 5)  # unanswered does not count
    low, high = bootstrap_intervals([0, 1, 2, 4, 3], [0, 2, 2, 1, -1], 5, metrics=["mae"])["mae"]
    assert 0 <= low < 1 < high <= 3
    confusion = np.zeros((5, 6))
    np.add.at(confusion, ([0, 1, 2, 4, 3], [0, 2, 2, 1, 5]), 1)
    assert {name: score_confusion(confusion, name) for name in ORDERED} == pytest.approx(told)


def test_the_most_frequent_label_by_hand():
    found = most_frequent([0, 1, 1, 2, 1], ["a", "b", "c"])
    assert found["label"] == "b" and found["accuracy"] == 0.6
    assert found["f1_weighted"] == pytest.approx(0.6 * 0.75) and found["f1_macro"] == pytest.approx(0.25)


def test_two_models_by_hand():
    labels = [0, 0, 1, 1, 2, 2]
    a = [[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.8, 0.2, 0.0], [0, 0, 1.0], [math.nan] * 3]
    b = [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.7, 0.3, 0.0], [0.1, 0.9, 0.0], [0, 0, 1.0], [0.0, 0.1, 0.9]]
    told = compare_predictions(labels, a, b, ["x", "y", "z"])
    assert told["n"] == 6 and told["agreement"] == pytest.approx(2 / 6)
    assert told["only_a"] == [2, 1] and told["only_b"] == [3, 5]
    assert told["mcnemar"]["b"] == told["mcnemar"]["c"] == 2 and told["accuracy"]["difference"] == 0
    assert {"true": "z", "a": None, "b": "z", "count": 1} in told["flips"] and len(told["flips"]) == 4
    assert compare_predictions(labels * 2, a * 2, b * 2, ["x", "y", "z"])["flips"][0]["count"] == 2
    with pytest.raises(DataError, match="shape"):
        compare_predictions(labels, a, b[:3], ["x", "y", "z"])


def test_distances_are_over_the_texts_that_both_answer():
    """Kind: a model that leaves out its doubtful texts, and is closer than itself."""
    whole = np.eye(3)[[0, 2, 0, 2]]
    part = whole.copy()
    part[2:] = np.nan  # where it would be two classes off
    found = compare_predictions([0, 2, 2, 0], part, whole, ["a", "b", "c"], ordered=True)
    assert found["mae"]["n"] == 2 and found["mae"]["difference"] == 0
    assert "mae" not in compare_predictions([0, 2, 2, 0], whole * np.nan, whole, ["a", "b", "c"], ordered=True)


def test_the_model_that_has_an_order_gives_it():
    """Kind: distances in the order of the alphabet, and other ones when the models change places."""
    plain = ModelSide("plain", SimpleNamespace(label_names=["bad", "good", "ok"], ordinal=False))
    ordinal = ModelSide("ordinal", SimpleNamespace(label_names=["bad", "ok", "good"], ordinal=True))
    for sides in ([plain, ordinal], [ordinal, plain]):
        assert names_of(sides, ("a", "b"), ["bad"]) == ["bad", "ok", "good"]
    other = ModelSide("other", SimpleNamespace(label_names=["ok", "bad", "good"], ordinal=True))
    with pytest.raises(ConfigError, match="orders its labels"):
        names_of([ordinal, other], ("a", "b"), ["bad"])


def test_one_text_shows_no_winner_and_one_label_no_comparison(tmp_path):
    for name, label in (("d", "pos"), ("a", "pos"), ("b", "neg"), ("c", "pos")):
        (tmp_path / f"{name}.csv").write_text(f"text,label\ngood,{label}\n")
    told = ("--data", tmp_path / "d.csv")
    found = invoke("compare", tmp_path / "a.csv", tmp_path / "b.csv", *told)
    assert "no difference is shown (a - b: weighted F1 +1.0000" in found.stdout.replace("\n", " "), found.stderr
    assert (
        "pos is the only label of data and answers"
        in invoke("compare", tmp_path / "a.csv", tmp_path / "c.csv", *told).error
    )
