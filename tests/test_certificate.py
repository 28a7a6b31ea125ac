"""What a certificate promises holds: an exact bound, a search that ends at the first failure, no part used twice."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import binom

from sentimoe.compression import divided, drift
from sentimoe.compression.search import MARGIN, candidates
from sentimoe.compression.texts import promises
from sentimoe.compression.thresholds import NEVER, _within, leaves_after, settings
from sentimoe.errors import DataError
from sentimoe.evaluation import last_within, least_trials, lower_bound, most_events, needed_trials, upper_bound
from sentimoe_cli.certificates import warn_of_layers


def test_the_bound_is_the_rate_at_which_so_few_events_have_a_chance_of_5_percent():
    for events, trials in ((0, 299), (3, 1000), (12, 1800)):
        bound = upper_bound(events, trials)
        assert binom.cdf(events, trials, bound) == pytest.approx(0.05, abs=1e-9)
        assert lower_bound(trials - events, trials) == pytest.approx(1 - bound)
    assert upper_bound(5, 5) == 1.0 and lower_bound(0, 5) == 0.0


def test_texts_that_a_tolerance_takes():
    """The figures of the documentation."""
    assert [least_trials(each) for each in (0.005, 0.01, 0.02)] == [598, 299, 149]
    for tolerance, about in ((0.005, 3400), (0.01, 1800), (0.02, 900)):
        assert needed_trials(tolerance, 0.6) == pytest.approx(about, rel=0.15)


def test_the_search_ends_at_the_first_failure():
    """A faster setting that would pass again is not reached: nothing corrects for looking on."""
    asked = []

    def counts(*events):
        for each in events:
            asked.append(each)
            yield each, 1000

    assert last_within(counts(0, 3, 30, 0), 0.01) == 1 and asked == [0, 3, 30]
    assert last_within(counts(30, 0), 0.01) is None and last_within([], 0.01) is None


def test_settings_that_are_tested_lie_about_the_tolerance():
    rates = [0.0, 0.001, 0.002, 0.0035, 0.0055, 0.0058, 0.0075, 0.009, 0.02]
    assert candidates(rates, 0.01) == [2, 3, 4, 5, 6, 7]  # the fastest within each part of 1%, once
    assert candidates([0.004, 0.02], 0.01) == [0] and candidates([0.02], 0.01) == []


def test_thresholds_go_from_nobody_leaves_to_many_and_each_exit_keeps_its_part():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.3, 1, (3, 2000))
    differs = generator.uniform(size=(3, 2000)) > confidence
    steps = settings(confidence, differs)
    assert steps[0] == (NEVER, NEVER)
    left = [(leaves_after(confidence, step) < 2).sum() for step in steps]
    assert left == sorted(left) and left[0] == 0 and left[-1] > 200
    for step, rate in zip(steps[-2:], (0.28, 0.4), strict=True):
        stage = leaves_after(confidence, step)
        wrong = differs[stage, np.arange(2000)] & (stage < 2)
        assert wrong[stage == 0].sum() <= rate * 1000 and wrong.sum() <= rate * 2000


def test_each_exit_is_chosen_by_the_texts_that_reach_it():
    """Against a slow search over all thresholds, exit by exit."""
    generator = np.random.default_rng(1)
    confidence = generator.uniform(0.3, 1, (3, 200)).round(2)
    differs = generator.uniform(size=(3, 200)) > confidence
    for rate in (0.02, 0.05):
        step = _within(confidence[:-1], differs[:-1], rate)
        staying, allowed = set(range(200)), 0.0
        for exit_, value in enumerate(step):
            allowed += rate * 200 / 2
            kept = [
                limit
                for limit in sorted(set(confidence[exit_]))
                if sum(differs[exit_, i] for i in staying if confidence[exit_, i] >= limit) <= allowed
                and any(confidence[exit_, i] == limit for i in staying)
            ]
            assert value == (kept[0] if kept else NEVER)
            leaving = {i for i in staying if confidence[exit_, i] >= value}
            allowed -= sum(differs[exit_, i] for i in leaving)
            staying -= leaving


def world(generator, count, share):
    """Texts whose exits are sure at chance: `share` of the sure ones of each exit have another label."""
    hard = generator.beta(0.4, 2.0, count)
    confidence = 1 - hard * generator.uniform(0.2, 1.0, (3, count))
    differs = generator.uniform(size=(3, count)) < share * hard * np.array([[2.0], [1.2], [0.05]])
    return confidence, differs


def test_at_most_5_percent_of_the_certificates_are_broken():
    """Two levers, choosing, ordering and stopping whole, 1,000 times, where several settings lie just above 1%."""
    generator, shares = np.random.default_rng(0), (0.1, 0.3)
    everything = [world(generator, 100_000, share) for share in shares]

    def rate_of(lever, step):
        confidence, differs = everything[lever]
        return differs[leaves_after(confidence, step), np.arange(100_000)].mean()

    broken = certified = risky = 0
    chosen = set()
    for number in range(1000):
        best = None
        for lever, share in enumerate(shares):
            confidence, differs = world(generator, 400, share)
            steps = settings(confidence, differs)
            leaves = [leaves_after(confidence, step) for step in steps]
            rates = [differs[leave, np.arange(400)].mean() for leave in leaves]
            fastest = max((place for place, rate in enumerate(rates) if rate <= MARGIN * 0.01), default=None)
            if fastest is not None and (best is None or leaves[fastest].mean() < best[0]):
                best = leaves[fastest].mean(), lever, steps, rates
        if best is None:
            continue
        _, lever, steps, rates = best
        chosen.add(lever)
        sure, other = world(generator, 1200, shares[lever])
        order = candidates(rates, 0.01)
        tested = [other[leaves_after(sure, steps[place]), np.arange(1200)].sum() for place in order]
        last = last_within(((int(count), 1200) for count in tested), 0.01)
        if last is not None:
            certified += 1
            broken += rate_of(lever, steps[order[last]]) > 0.01
        if number < 50:
            risky += sum(0.01 < rate_of(lever, steps[place]) < 0.015 for place in order) >= 2
    assert certified > 200 and risky > 10 and chosen == {0, 1}
    assert broken <= binom.ppf(0.99, certified, 0.05)


def test_it_is_said_before_work_what_can_be_certified():
    for rate, trials in ((0.005, 500), (0.01, 7200), (0.5, 40)):
        slow = sum(upper_bound(events, trials) <= rate for events in range(trials + 1)) - 1
        assert most_events(rate, trials) == slow
    enough = {rate: f"about {needed_trials(rate, 0.6):,} let a fast model pass" for rate in (0.005, 0.01, 0.02)}
    assert promises(300, 0.02) == [
        f"to certify max_disagreement=0.005: needs 598 texts; {enough[0.005]}",
        f"to certify max_disagreement=0.01: at most 0 of 300 labels may differ; {enough[0.01]}",
        f"to certify max_disagreement=0.02: at most 1 of 300 labels may differ; {enough[0.02]}",
    ]
    assert not any("fast" in line for line in promises(4000, 0.005))


def test_parts_are_disjoint_and_what_the_model_knows_neither_chooses_nor_certifies():
    texts = [f"text {i}" for i in range(2000)] + ["Text  0", " ", ""]
    seen = np.array([i < 300 for i in range(2003)])
    parts = divided(texts, seen, 0.01, 0)
    fresh = {*parts.choose, *parts.certify}
    assert (parts.repeats, parts.blank, parts.seen) == (1, 2, 300)
    assert not fresh & set(parts.learn) and not fresh & set(texts[:300])
    assert len(parts.learn) + len(parts.choose) + len(parts.certify) == 2000
    again = divided(texts, seen, 0.01, 0)
    assert again == parts and divided(texts, seen, 0.01, 1) != parts


def test_too_few_texts_are_refused_with_how_many_it_takes():
    with pytest.raises(DataError, match=r"it takes 748 for any promise, and about 4\d\d\d"):
        divided([f"text {i}" for i in range(700)], np.zeros(700, dtype=bool), 0.01, 0)


def counted(layers):
    return Counter(layers.tolist())


def test_drift_is_told_from_chance(capsys):
    certificate = {"shares": {"1": 0.3, "3": 0.5, "6": 0.2}, "texts": 2000}
    generator = np.random.default_rng(0)
    same = generator.choice([1, 3, 6], 5000, p=[0.3, 0.5, 0.2])
    other = generator.choice([1, 3, 6], 5000, p=[0.2, 0.5, 0.3])
    assert not drift(certificate, counted(same)).found
    found = drift(certificate, counted(other))
    assert found.found and found.total_variation == pytest.approx(0.1, abs=0.02)
    assert np.isnan(drift(certificate, counted(other[:199])).p) and not drift(certificate, counted(other[:199])).found
    assert drift(certificate, {0: 5}).texts == 0
    assert not drift({"shares": {"1": 1.0, "6": 0.0}, "texts": 300}, {1: 300}).found
    many = certificate | {"texts": 20_000}
    warn_of_layers(many, Counter({1: 900_000, 6: 100_000}))
    assert "(total variation 0.60, p < 1e-99)" in capsys.readouterr().err
    little = drift(many, {1: 320_000, 3: 500_000, 6: 180_000})  # by more than chance, and not by much
    assert little.p < 0.001 and little.total_variation == pytest.approx(0.02) and not little.found
    for nobody in ({"6": 1.0}, {"1": 0.0, "6": 1.0}):  # no exits, or none that is taken: nothing to compare
        assert drift({"shares": nobody, "texts": 300}, {6: 5000}) is None


def test_drift_knows_that_the_certificate_is_a_sample_too():
    """Kind: shares of 300 texts taken for exact ones; then texts of the same kind are called others in 13% of cases."""
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(1000):
        counts = generator.multinomial(300, [0.3, 0.3, 0.4])
        certificate = {"shares": dict(zip("136", (counts / 300).tolist(), strict=True)), "texts": 300}
        alarms += drift(certificate, counted(generator.choice([1, 3, 6], 20_000, p=[0.3, 0.3, 0.4]))).found
    assert alarms <= binom.ppf(0.999, 1000, 0.001)
