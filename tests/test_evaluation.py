"""The evaluation layer against values worked out by hand, scikit-learn, slow references and simulations."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel
from sklearn.metrics import accuracy_score, f1_score, log_loss

from sentimoe.errors import ConfigError, DataError
from sentimoe.evaluation import (
    bootstrap_intervals,
    classification_metrics,
    expected_calibration_error,
    mcnemar,
    paired_bootstrap,
    paired_t,
    predicted_labels,
    reliability_bins,
    summarise,
)

BLANK = [math.nan, math.nan, math.nan]


def one_hot(predictions, num_classes):
    return np.eye(num_classes)[predictions]


def sklearn_score(metric, labels, predictions):
    if metric == "accuracy":
        return accuracy_score(labels, predictions)
    average = metric.removeprefix("f1_")
    occurring = sorted({*labels, *predictions} - {-1})
    return f1_score(labels, predictions, labels=occurring, average=average, zero_division=0)


def noisy_predictions(rng, labels, num_classes, skill):
    """Predictions that are right where skill (broadcast to the runs) beats a coin, and random otherwise."""
    shape = np.broadcast_shapes(np.shape(skill), labels.shape)
    return np.where(rng.random(shape) < skill, labels, rng.integers(num_classes, size=shape))


class TestClassificationMetrics:
    # Confusion by hand: true a -> a a b, true b -> b b b a, true c -> a (c is never predicted).
    labels = (0, 0, 0, 1, 1, 1, 1, 2)
    predicted = (0, 0, 1, 1, 1, 1, 0, 0)

    def metrics(self):
        return classification_metrics(self.labels, one_hot(list(self.predicted), 3), ["a", "b", "c"])

    def test_by_hand(self):
        metrics = self.metrics()
        assert metrics["n"] == 8
        assert metrics["n_unanswered"] == 0
        assert metrics["confusion_matrix"] == [[2, 1, 0], [1, 3, 0], [1, 0, 0]]
        assert metrics["accuracy"] == pytest.approx(5 / 8)
        assert metrics["per_class"]["a"] == pytest.approx(
            {"precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7, "support": 3}
        )
        assert metrics["per_class"]["b"] == pytest.approx(
            {"precision": 3 / 4, "recall": 3 / 4, "f1": 3 / 4, "support": 4}
        )
        assert metrics["per_class"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
        assert metrics["f1_macro"] == pytest.approx((4 / 7 + 3 / 4 + 0) / 3)
        assert metrics["f1_weighted"] == pytest.approx((3 * 4 / 7 + 4 * 3 / 4) / 8)
        assert metrics["precision_macro"] == pytest.approx((2 / 4 + 3 / 4) / 3)
        assert metrics["precision_weighted"] == pytest.approx((3 * 2 / 4 + 4 * 3 / 4) / 8)
        assert metrics["recall_macro"] == pytest.approx((2 / 3 + 3 / 4) / 3)
        assert metrics["recall_weighted"] == pytest.approx(5 / 8)

    def test_is_json(self):
        metrics = self.metrics()
        assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics

    @pytest.mark.parametrize(("predicted", "macro"), [([0, 1], 1), ([0, 2], 1 / 3)])
    def test_macro_is_over_the_classes_that_occur(self, predicted, macro):
        """Kind: .43 for .54, because no text has the third class and no answer names it."""
        metrics = classification_metrics([0, 1], one_hot(predicted, 3), ["a", "b", "c"])
        assert metrics["f1_macro"] == pytest.approx(macro) == f1_score([0, 1], predicted, average="macro")
        if macro == 1:
            assert metrics["f1_weighted"] == metrics["precision_macro"] == 1
            assert bootstrap_intervals([0] * 99 + [1], [0] * 99 + [1], 3)["f1_macro"] == [1, 1]

    def test_nll(self):
        rng = np.random.default_rng(0)
        probabilities = rng.dirichlet([1, 1, 1], size=50)
        labels = rng.integers(3, size=50)
        metrics = classification_metrics(labels, probabilities, ["a", "b", "c"])
        assert metrics["nll"] == pytest.approx(log_loss(labels, probabilities, labels=range(3)))
        assert classification_metrics([0], [[0.25, 0.75]], ["a", "b"])["nll"] == pytest.approx(math.log(4))

    def test_nll_of_an_impossible_truth_is_finite(self):
        assert 700 < classification_metrics([1], [[1.0, 0.0]], ["a", "b"])["nll"] < 710

    def test_blank_texts_are_errors_of_no_class(self):
        probabilities = [[0.8, 0.1, 0.1], BLANK, [0.1, 0.6, 0.3], BLANK]
        metrics = classification_metrics([0, 0, 1, 2], probabilities, ["a", "b", "c"])
        assert (metrics["n"], metrics["n_unanswered"]) == (4, 2)
        assert metrics["accuracy"] == pytest.approx(2 / 4)
        assert metrics["confusion_matrix"] == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
        assert metrics["per_class"]["a"] == pytest.approx({"precision": 1, "recall": 1 / 2, "f1": 2 / 3, "support": 2})
        assert metrics["per_class"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
        assert metrics["nll"] == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)
        assert metrics["ece"] == pytest.approx((0.2 + 0.4) / 2)

    def test_nothing_but_blank_texts(self):
        metrics = classification_metrics([0, 1], [BLANK, BLANK], ["a", "b", "c"])
        assert (metrics["accuracy"], metrics["n_unanswered"], metrics["ece"], metrics["nll"]) == (0, 2, None, None)

    def test_predicted_labels(self):
        assert predicted_labels([[0.2, 0.5, 0.3], BLANK, [0.4, 0.2, 0.4]]).tolist() == [1, -1, 0]

    @pytest.mark.parametrize(
        ("labels", "probabilities", "names", "message"),
        [
            ([0, 1], [[0.5, 0.5]], ["a", "b"], "2 labels and 1 rows"),
            ([2], [[0.5, 0.5]], ["a", "b"], "allowed is 0 to 1"),
            ([-1], [[0.5, 0.5]], ["a", "b"], "allowed is 0 to 1"),
            ([0.0], [[0.5, 0.5]], ["a", "b"], "integers"),
            ([], np.empty((0, 2)), ["a", "b"], "at least 1 text"),
            ([0], [[1.0]], ["a"], "2 classes"),
            ([0], [[0.5, 0.5]], ["a", "a"], "distinct"),
            ([0], [[0.5, 0.5]], ["a", "b", "c"], "distinct"),
            ([0], [[2.0, -1.0]], ["a", "b"], "softmax"),
            ([0], [[0.4, 0.4]], ["a", "b"], "softmax"),
            ([0], [[math.nan, 1.0]], ["a", "b"], "all NaN"),
        ],
    )
    def test_refuses(self, labels, probabilities, names, message):
        with pytest.raises(DataError, match=message):
            classification_metrics(labels, probabilities, names)


class TestCalibration:
    def test_by_hand(self):
        # Two bins: (0, .5] holds .5 (wrong); (.5, 1] holds .9 and .7 (right) and .8 (wrong).
        probabilities = [[0.5, 0.3, 0.2], [0.9, 0.1, 0.0], [0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]
        bins = reliability_bins([1, 0, 0, 2], probabilities, n_bins=2)
        assert [(each["low"], each["high"], each["count"]) for each in bins] == [(0, 0.5, 1), (0.5, 1, 3)]
        assert bins[0]["accuracy"] == 0
        assert bins[0]["confidence"] == pytest.approx(0.5)
        assert bins[1]["accuracy"] == pytest.approx(2 / 3)
        assert bins[1]["confidence"] == pytest.approx(0.8)
        assert expected_calibration_error(bins) == pytest.approx((1 * 0.5 + 3 * (0.8 - 2 / 3)) / 4)

    def test_every_answered_text_is_in_one_bin(self):
        rng = np.random.default_rng(1)
        probabilities = rng.dirichlet([0.3, 0.3, 0.3], size=500)
        probabilities[:7] = np.nan
        probabilities[7:9] = [1, 0, 0]
        bins = reliability_bins(rng.integers(3, size=500), probabilities)
        assert len(bins) == 15
        assert sum(each["count"] for each in bins) == 493
        for each in bins:
            assert each["count"] == 0 or each["low"] < each["confidence"] <= each["high"]
            assert (each["accuracy"] is None) == (each["count"] == 0)

    def test_calibrated_probabilities_have_a_small_error(self):
        rng = np.random.default_rng(2)
        probabilities = rng.dirichlet([1, 1], size=20_000)
        labels = (rng.random(20_000) < probabilities[:, 1]).astype(int)
        assert expected_calibration_error(reliability_bins(labels, probabilities)) < 0.015
        assert expected_calibration_error(reliability_bins(1 - labels, probabilities)) > 0.4

    def test_refuses_no_bins(self):
        with pytest.raises(ConfigError, match="n_bins"):
            reliability_bins([0], [[0.5, 0.5]], n_bins=0)


class TestBootstrapIntervals:
    def test_agrees_with_resampling_texts_one_by_one(self):
        # Four classes, of which 3 is never predicted, and a few unanswered texts.
        rng = np.random.default_rng(3)
        labels = rng.choice(4, size=150, p=[0.4, 0.3, 0.2, 0.1])
        predictions = noisy_predictions(rng, labels, 3, 0.7)
        predictions[predictions == 3] = 0
        predictions[:8] = -1
        fast = bootstrap_intervals(labels, predictions, 4, n_resamples=20_000)

        for metric in ("accuracy", "f1_weighted", "f1_macro"):
            slow = []
            for _ in range(500):
                drawn = rng.integers(150, size=150)
                slow.append(sklearn_score(metric, labels[drawn], predictions[drawn]))
            noise = np.std(slow)
            assert fast[metric] == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.35 * noise)
            assert np.mean(fast[metric]) == pytest.approx(np.median(slow), abs=0.35 * noise)

    def test_covers_the_true_accuracy_as_often_as_it_says(self):
        rng = np.random.default_rng(4)
        covered = []
        for trial in range(400):
            labels = rng.integers(2, size=250)
            predictions = np.where(rng.random(250) < 0.8, labels, 1 - labels)
            low, high = bootstrap_intervals(labels, predictions, 2, n_resamples=400, seed=trial)["accuracy"]
            covered.append(low <= 0.8 <= high)
        assert 0.91 < np.mean(covered) < 0.98

    def test_same_seed_same_interval_and_confidence_widens_it(self):
        rng = np.random.default_rng(5)
        labels = rng.integers(3, size=200)
        predictions = noisy_predictions(rng, labels, 3, 0.6)
        first = bootstrap_intervals(labels, predictions, 3, seed=1)
        assert first == bootstrap_intervals(labels, predictions, 3, seed=1)
        assert first != bootstrap_intervals(labels, predictions, 3, seed=2)
        wider = bootstrap_intervals(labels, predictions, 3, seed=1, confidence=0.99)
        assert all(wider[name][0] < first[name][0] and first[name][1] < wider[name][1] for name in first)

    def test_a_hundred_of_a_hundred_leave_doubt(self):
        """Kind: 1.0000 - 1.0000 from three texts. Right value: the binomial's, .025 ** (1 / 100)."""
        labels = np.array([0, 1] * 50)
        assert bootstrap_intervals(labels, labels, 2)["accuracy"] == pytest.approx([0.025**0.01, 1])
        assert bootstrap_intervals(labels, 1 - labels, 2)["accuracy"] == pytest.approx([0, 1 - 0.025**0.01])

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"n_resamples": 0}, ConfigError),
            ({"confidence": 95}, ConfigError),
            ({"predictions": [0]}, DataError),
            ({"predictions": [0, 2]}, DataError),
            ({"predictions": [0, -2]}, DataError),
            ({"predictions": [[0, 1], [0, 1]]}, DataError),
            ({"labels": [-1, 0]}, DataError),
        ],
    )
    def test_refuses(self, changes, error):
        with pytest.raises(error):
            bootstrap_intervals(**{"labels": [0, 1], "predictions": [0, 1], "num_classes": 2, **changes})


class TestMcNemar:
    def test_by_hand(self):
        # Only a right: 2 texts; only b right: 7 texts; both right, both wrong or unanswered: the rest.
        labels = [1] * 14
        a = [1] * 2 + [0] * 7 + [1, 1, 0, -1, -1]
        b = [0] * 2 + [1] * 7 + [1, 1, 0, -1, 0]
        result = mcnemar(labels, a, b)
        assert (result["b"], result["c"]) == (2, 7)
        assert result["p_value"] == pytest.approx(2 * (1 + 9 + 36) / 2**9)
        assert result["p_value"] == pytest.approx(binomtest(2, 9, 0.5).pvalue)
        swapped = mcnemar(labels, b, a)
        assert (swapped["b"], swapped["c"], swapped["p_value"]) == (7, 2, result["p_value"])

    def test_no_discordant_text(self):
        assert mcnemar([0, 1], [0, 0], [0, 0]) == {"b": 0, "c": 0, "p_value": 1}

    def test_refuses_several_runs(self):
        with pytest.raises(DataError, match="one with one"):
            mcnemar([0, 1], [[0, 1], [0, 1]], [0, 1])


class TestPairedBootstrap:
    @pytest.mark.parametrize("metric", ["accuracy", "f1_weighted", "f1_macro"])
    def test_identical_predictions(self, metric):
        rng = np.random.default_rng(6)
        labels = rng.integers(3, size=100)
        predictions = noisy_predictions(rng, labels, 3, 0.5)
        result = paired_bootstrap(labels, predictions, predictions, metric=metric, n_resamples=200)
        assert (result["difference"], result["interval"], result["p_value"]) == (0, [0, 0], 1)
        assert result["distinguishable"] is False
        assert json.loads(json.dumps(result)) == result

    @pytest.mark.parametrize("metric", ["accuracy", "f1_weighted", "f1_macro"])
    def test_a_big_difference_is_found(self, metric):
        rng = np.random.default_rng(7)
        labels = rng.integers(3, size=400)
        a = noisy_predictions(rng, labels, 3, np.full((5, 1), 0.85))
        b = noisy_predictions(rng, labels, 3, np.full((3, 1), 0.6))
        result = paired_bootstrap(labels, a, b, metric=metric, n_resamples=500)
        means = [np.mean([sklearn_score(metric, labels, run) for run in runs]) for runs in (a, b)]
        assert [result["mean_a"], result["mean_b"]] == pytest.approx(means)
        assert result["difference"] == pytest.approx(means[0] - means[1])
        assert 0 < result["interval"][0] < result["difference"] < result["interval"][1]
        assert result["distinguishable"] is True
        assert result["p_value"] == pytest.approx(2 / 501)
        backwards = paired_bootstrap(labels, b, a, metric=metric, n_resamples=500)
        assert backwards["difference"] == -result["difference"]
        assert backwards["interval"][1] < 0
        assert backwards["distinguishable"] is True

    def test_agrees_with_resampling_texts_and_seeds_one_by_one(self):
        rng = np.random.default_rng(8)
        labels = rng.choice(3, size=120, p=[0.6, 0.3, 0.1])
        a = noisy_predictions(rng, labels, 3, np.array([[0.8], [0.6]]))
        b = noisy_predictions(rng, labels, 3, np.array([[0.7], [0.5], [0.6]]))
        b[:, :5] = -1
        fast = paired_bootstrap(labels, a, b, metric="f1_macro", n_resamples=10_000)
        slow = []
        for _ in range(500):
            drawn = rng.integers(120, size=120)
            means = [
                np.mean([sklearn_score("f1_macro", labels[drawn], runs[i][drawn]) for i in chosen])
                for runs, chosen in ((a, rng.integers(2, size=1)), (b, rng.integers(3, size=2)))
            ]
            slow.append(means[0] - means[1])
        assert fast["interval"] == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.35 * np.std(slow))

    def test_pairing_of_texts_narrows_the_interval(self):
        rng = np.random.default_rng(9)
        labels = rng.integers(2, size=500)
        a = noisy_predictions(rng, labels, 2, 0.6)
        b = a.copy()
        b[:10] = 1 - labels[:10]
        low, high = paired_bootstrap(labels, a, b, metric="accuracy", n_resamples=500)["interval"]
        alone = bootstrap_intervals(labels, a, 2)["accuracy"]
        assert high - low < 0.5 * (alone[1] - alone[0])

    def test_seeds_are_drawn_alone_or_in_pairs(self):
        # Each run is all right or all wrong: the texts add no noise, all of it comes from the seeds.
        labels = np.zeros(20, dtype=int)
        runs = np.stack([labels, labels + 1])
        alone = paired_bootstrap(labels, runs, runs, metric="accuracy", n_resamples=300)
        pairs = paired_bootstrap(labels, runs, runs, metric="accuracy", n_resamples=300, paired_seeds=True)
        assert alone["interval"] == [-1, 1]
        assert pairs["interval"] == [0, 0]

    def test_one_seed_fewer_than_given_is_drawn(self):
        # One right run of three: both draws right has probability 1/9 (above 5%), all of three would have 1/27.
        labels = np.zeros(20, dtype=int)
        a = np.stack([labels, labels + 1, labels + 1])
        result = paired_bootstrap(labels, a, labels + 1, metric="accuracy", n_resamples=2000, confidence=0.9)
        backwards = paired_bootstrap(labels, labels + 1, a, metric="accuracy", n_resamples=2000, confidence=0.9)
        assert result["difference"] == pytest.approx(1 / 3)
        assert result["interval"] == [0, 1]
        assert backwards["interval"] == [-1, 0]

    def test_p_values_are_roughly_uniform_where_nothing_differs(self):
        p_values, found = self.simulate_null(n_seeds=1, seed_noise=0.0, trials=600)
        assert 0.025 < np.mean(p_values <= 0.05) < 0.08
        for level in (0.25, 0.5, 0.75):
            assert abs(np.mean(p_values <= level) - level) < 0.06
        assert np.mean(found != (p_values <= 0.05)) < 0.01

    def test_seed_noise_is_not_mistaken_for_a_difference(self):
        # One run of each: the seed cannot be told from the method. Five runs of each: it can.
        blind, _ = self.simulate_null(n_seeds=1, seed_noise=0.06, trials=100)
        seeing, _ = self.simulate_null(n_seeds=5, seed_noise=0.06, trials=200)
        assert np.mean(blind <= 0.05) > 0.3
        assert np.mean(seeing <= 0.05) < 0.13

    @staticmethod
    def simulate_null(n_seeds, seed_noise, trials):
        """p-values and verdicts for two methods whose runs are drawn alike, skill varying between the runs."""
        results = []
        for trial in range(trials):
            rng = np.random.default_rng(trial)
            labels = rng.integers(3, size=1000)
            ease = rng.normal(0, 0.15, size=1000)
            a, b = (
                noisy_predictions(rng, labels, 3, 0.7 + ease + rng.normal(0, seed_noise, size=(n_seeds, 1)))
                for _ in range(2)
            )
            results.append(paired_bootstrap(labels, a, b, metric="f1_macro", n_resamples=399, seed=trial))
        return tuple(np.array([each[key] for each in results]) for key in ("p_value", "distinguishable"))

    def test_classes_that_do_not_occur_change_no_macro_f1(self):
        labels, a, b = [0, 1, 0, 1], [0, 1, 0, 1], [0, 1, 1, 0]
        seen = paired_bootstrap(labels, a, b, metric="f1_macro", n_resamples=10)
        told = paired_bootstrap(labels, a, b, metric="f1_macro", n_resamples=10, num_classes=4)
        assert (seen["mean_a"], told["mean_a"]) == (1, 1)

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"metric": "f2"}, ConfigError, "f1_macro"),
            ({"n_resamples": 0}, ConfigError, "n_resamples"),
            ({"predictions_a": [0, 1, 1]}, DataError, "predictions_a has shape"),
            ({"predictions_b": [0, 5], "num_classes": 2}, DataError, "predictions_b goes"),
            ({"predictions_a": [[0, 1], [1, 1]], "paired_seeds": True}, DataError, "paired seeds"),
        ],
    )
    def test_refuses(self, changes, error, message):
        with pytest.raises(error, match=message):
            paired_bootstrap(**{"labels": [0, 1], "predictions_a": [0, 1], "predictions_b": [0, 0], **changes})


class TestSeeds:
    def test_summarise_by_hand(self):
        # Mean 3, squares 4 + 1 + 0 + 1 + 4 = 10, variance 10/4; t(4) at 97.5% is 2.7764.
        summary = summarise([1, 2, 3, 4, 5])
        margin = 2.776445 * math.sqrt(2.5 / 5)
        assert (summary["mean"], summary["n"], summary["values"]) == (3, 5, [1, 2, 3, 4, 5])
        assert summary["std"] == pytest.approx(math.sqrt(2.5))
        assert summary["interval"] == pytest.approx([3 - margin, 3 + margin])

    def test_summarise_one_and_equal_values(self):
        assert summarise([0.5]) == {"mean": 0.5, "std": None, "n": 1, "interval": None, "values": [0.5]}
        assert summarise([0.5, 0.5])["interval"] == [0.5, 0.5]

    @pytest.mark.parametrize("values", [[], [math.nan, 1], [math.inf]])
    def test_summarise_refuses(self, values):
        with pytest.raises(DataError, match="finite"):
            summarise(values)

    def test_paired_t(self):
        a, b = [0.81, 0.84, 0.80, 0.86], [0.80, 0.81, 0.80, 0.82]
        result = paired_t(a, b)
        assert result["difference"] == pytest.approx(0.02)
        assert result["p_value"] == pytest.approx(ttest_rel(a, b).pvalue)
        assert result["interval"] == pytest.approx(summarise(np.subtract(a, b))["interval"])
        assert result["n"] == 4

    @pytest.mark.parametrize(("a", "b"), [([0.9], [0.8]), ([0.5, 0.6], [0.5, 0.6]), ([0.82, 0.84], [0.80, 0.82])])
    def test_paired_t_without_spread_claims_nothing(self, a, b):
        result = paired_t(a, b)
        assert result["difference"] == pytest.approx(a[0] - b[0])
        assert (result["interval"], result["p_value"]) == (None, None)

    def test_paired_t_refuses_unequal_numbers(self):
        with pytest.raises(DataError, match="same seeds"):
            paired_t([1, 2], [1, 2, 3])
