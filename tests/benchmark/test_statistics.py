"""The statistics agree with scipy where scipy has them, keep their error rate, and find real effects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unlabeled.benchmark.statistics import (
    Score,
    compare_scores,
    crossed_interval,
    flip_test,
    holm,
    p_value,
    standard_error,
)
from unlabeled.benchmark.verdict import outcome, verdict
from unlabeled.errors import DataError


def plan(
    rng,
    *,
    seeds=3,
    subjects=12,
    effect=0.0,
    by_seed=0.0,
    by_subject=0.0,
    rest=0.02,
    fractions=(0.1,),
):
    """Rows of scratch and one method whose differences have known random effects."""
    rows = []
    for fraction in fractions:
        base = 0.7 + rng.normal(0, 0.05, (seeds, subjects))
        change = (
            effect + rng.normal(0, by_seed, (seeds, 1)) + rng.normal(0, by_subject, (1, subjects))
        )
        change = change + rng.normal(0, rest, (seeds, subjects))
        for name, table in (("scratch", base), ("ours", base + change)):
            rows += [
                Score(name, fraction, s, f"s{j:02d}", float(table[s, j]))
                for s in range(seeds)
                for j in range(subjects)
            ]
    return rows


def test_flips_agree_with_scipy():
    rng = np.random.default_rng(0)
    for count in (5, 9, 12):
        differences = rng.normal(0.3, 1.0, count)
        theirs = stats.permutation_test(
            (differences,),
            np.mean,
            permutation_type="samples",
            n_resamples=np.inf,
            alternative="two-sided",
        )
        assert flip_test(differences) == pytest.approx(theirs.pvalue, rel=1e-9)
    many = rng.normal(0.25, 1.0, 40)
    assert flip_test(many) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.02)


def test_the_t_part_is_the_one_sample_t_test_for_one_seed():
    values = np.random.default_rng(1).normal(0.4, 1.0, (1, 15))
    error, freedom = standard_error(values)
    theirs = stats.ttest_1samp(values[0], 0)
    assert values.mean() / error == pytest.approx(theirs.statistic)
    assert freedom == theirs.df


def test_one_dominating_factor_gives_that_factors_t_test():
    rng = np.random.default_rng(2)
    seeds = rng.normal(0, 1, (5, 1)) + 1e-6 * rng.normal(0, 1, (5, 30))
    error, freedom = standard_error(seeds)
    assert error == pytest.approx(stats.sem(seeds.mean(axis=1)), rel=1e-3)
    assert freedom == pytest.approx(4, rel=1e-3)
    error, freedom = standard_error(seeds.T)
    assert freedom == pytest.approx(4, rel=1e-3)


def test_the_interval_is_scipys_bootstrap_where_samples_are_large():
    values = np.random.default_rng(3).gamma(2.0, 1.0, (1, 400))
    ours = crossed_interval(values, resamples=8000, seed=5)
    theirs = stats.bootstrap(
        (values[0],), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(6)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_the_interval_is_never_narrower_than_the_t_interval():
    values = np.random.default_rng(4).normal(0, 1, (3, 10))
    interval = crossed_interval(values)
    error, freedom = standard_error(values)
    assert interval.high - interval.low >= 2 * error * stats.t.ppf(0.975, freedom) * (1 - 1e-9)
    assert interval.low < interval.mean == values.mean() < interval.high


@pytest.mark.parametrize(
    "effects", [{}, {"by_subject": 0.04}, {"by_seed": 0.04}, {"by_seed": 0.02, "by_subject": 0.02}]
)
def test_a_method_without_effect_is_seldom_called_a_gain(effects):
    assert false_positives(200, effects) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)


@pytest.mark.slow
@pytest.mark.parametrize(
    "effects", [{}, {"by_subject": 0.04}, {"by_seed": 0.04}, {"by_seed": 0.02, "by_subject": 0.02}]
)
def test_the_error_rate_holds_over_many_plans(effects):
    assert false_positives(2000, effects) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 2000)


def study(rng, *, effect=0.0, bounded, seeds=3, subjects=8):
    """Scores of scratch and three methods at three label fractions; one method may gain where labels are fewest.

    Subjects are hard or easy for all, each training (method, fraction, seed) is lucky or not, and each method suits some
    subjects better: what one draws of the other is told by no number of test subjects alone.
    """
    hard = rng.normal(0, 0.08, subjects)
    rows = []
    for method in ("scratch", "one", "two", "three"):
        suits = rng.normal(0, 0.02, subjects)
        for number, fraction in enumerate((0.05, 0.2, 1.0)):
            gain = effect if (method, number) == ("two", 0) else 0.0
            table = 0.75 + 0.06 * number + gain + hard + suits
            table = (
                table + rng.normal(0, 0.015, (seeds, 1)) + rng.normal(0, 0.02, (seeds, subjects))
            )
            if bounded:  # skewed towards 1, as Dice is, and never beyond
                table = 1 - np.clip(1 - table, 0.001, 1) ** 1.5
            rows += [
                Score(method, fraction, s, f"s{j}", float(table[s, j]))
                for s in range(seeds)
                for j in range(subjects)
            ]
    return rows


@pytest.mark.parametrize("bounded", [False, True])
def test_of_500_null_plans_at_most_one_in_twenty_claims_anything(bounded):
    rng = np.random.default_rng(9)
    wrong = 0
    for _ in range(500):
        comparison = compare_scores(study(rng, bounded=bounded), resamples=2)
        wrong += any(outcome(cell, comparison) in ("gain", "harm") for cell in comparison.cells)
    assert wrong / 500 <= 0.05


def test_a_gain_of_one_method_at_one_fraction_is_found_and_named():
    rng = np.random.default_rng(16)
    found = others = 0
    for _ in range(50):
        rows = study(rng, effect=0.15, bounded=False, subjects=12, seeds=5)
        comparison = compare_scores(rows, resamples=2)
        gains = [c for c in comparison.cells if outcome(c, comparison) == "gain"]
        found += any((c.method, c.label_fraction) == ("two", 0.05) for c in gains)
        others += any((c.method, c.label_fraction) != ("two", 0.05) for c in gains)
        if any((c.method, c.label_fraction) == ("two", 0.05) for c in gains):
            assert verdict(comparison).startswith("Pretraining with two improved")
    assert found / 50 >= 0.9
    assert others / 50 <= 0.1


def test_for_one_seed_the_p_value_is_the_stricter_of_scipys_paired_tests():
    rng = np.random.default_rng(17)
    for count in (6, 9, 12):
        scratch, ours = rng.normal(0.7, 0.1, count), rng.normal(0.74, 0.1, count)
        by_t = stats.ttest_rel(ours, scratch).pvalue
        flipped = stats.permutation_test(
            (ours, scratch),
            lambda a, b: np.mean(a - b),
            permutation_type="samples",
            n_resamples=np.inf,
        ).pvalue
        assert p_value((ours - scratch)[None]) == pytest.approx(max(by_t, flipped), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    seeds=st.integers(1, 4),
    subjects=st.integers(1, 6),
    edge=st.floats(0, 1),
    spread=st.floats(0, 0.5),
)
def test_intervals_of_a_bounded_metric_stay_within_its_bounds(seed, seeds, subjects, edge, spread):
    rng = np.random.default_rng(seed)
    rows = [
        Score(method, 1.0, s, f"s{j}", float(np.clip(rng.normal(edge, spread), 0, 1)))
        for method in ("scratch", "ours")
        for s in range(seeds)
        for j in range(subjects)
    ]
    free = compare_scores(rows, resamples=50)
    comparison = compare_scores(rows, resamples=50, bounds=(0.0, 1.0))
    for cell, wide in zip(comparison.cells, free.cells, strict=True):
        assert 0 <= cell.score.low <= cell.score.mean <= cell.score.high <= 1
        assert cell.score.low in (0.0, wide.score.low)
        assert cell.score.high in (1.0, wide.score.high)
    gap = comparison.cell("ours", 1.0).difference.interval
    assert -1 <= gap.low <= gap.mean <= gap.high <= 1


@pytest.mark.parametrize("effects", [{"by_subject": 0.04}, {"by_seed": 0.02, "by_subject": 0.02}])
def test_intervals_cover_the_truth(effects):
    rng = np.random.default_rng(10)
    hits = 0
    for _ in range(200):
        values = table(rng, 3, 12, 0.1, **effects)
        interval = crossed_interval(values, resamples=300)
        hits += interval.low <= 0.1 <= interval.high
    assert hits / 200 >= 0.92


def table(rng, seeds, subjects, effect=0.0, by_seed=0.0, by_subject=0.0, rest=0.02):
    values = effect + rng.normal(0, rest, (seeds, subjects))
    return values + rng.normal(0, by_seed, (seeds, 1)) + rng.normal(0, by_subject, (1, subjects))


def false_positives(plans, effects):
    rng = np.random.default_rng(8)
    return np.mean([p_value(table(rng, 3, 12, **effects)) < 0.05 for _ in range(plans)])


def test_a_real_effect_is_found():
    rng = np.random.default_rng(11)
    rows = plan(rng, effect=0.05, by_seed=0.005, by_subject=0.02, fractions=(0.1, 1.0))
    comparison = compare_scores(rows)
    for fraction in (0.1, 1.0):
        difference = comparison.cell("ours", fraction).difference
        assert difference.p <= difference.p_holm < 0.05
        assert 0.0 < difference.interval.low < 0.05 < difference.interval.high
    text = verdict(comparison, {"ours": "Our Method"})
    assert text.startswith("Pretraining with Our Method improved Dice by +0.0")
    assert "2 of 2" in text


def test_one_lucky_seed_is_no_effect():
    rng = np.random.default_rng(12)
    values = table(rng, 3, 40, rest=0.005)
    values[0] += 0.1  # a single training went well
    assert flip_test(values.mean(axis=0)) < 0.001
    assert p_value(values) > 0.2


def test_verdict_can_be_no_gain_or_harm():
    rng = np.random.default_rng(13)
    none = compare_scores(plan(rng, rest=0.05))
    assert verdict(none).startswith("No significant gain")
    worse = compare_scores(plan(rng, effect=-0.1, rest=0.01))
    assert "significantly worse" in verdict(worse)
    assert outcome(worse.cell("ours", 0.1), worse) == "harm"
    distance = compare_scores(
        plan(rng, effect=-0.1, rest=0.01), metric="HD95", higher_is_better=False
    )
    assert "improved HD95" in verdict(distance)
    alone = compare_scores([row for row in plan(rng) if row.method == "scratch"])
    assert "nothing can be said" in verdict(alone)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_step_down_procedure(p_values):
    corrected = holm(p_values)
    order = np.argsort(p_values, kind="stable")
    assert all(ours >= raw and ours <= 1 for ours, raw in zip(corrected, p_values, strict=True))
    assert np.all(np.diff(np.array(corrected)[order]) >= 0)
    rejected = set()
    for rank, place in enumerate(order):
        if p_values[place] * (len(p_values) - rank) > 0.05:
            break
        rejected.add(int(place))
    assert rejected == {i for i, p in enumerate(corrected) if p <= 0.05}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_order_of_rows_and_names_of_subjects_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    rows = plan(rng, subjects=6, effect=0.02)
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    one, two = compare_scores(rows, resamples=100), compare_scores(shuffled, resamples=100)
    assert one == two


def test_the_same_seed_gives_the_same_numbers():
    rows = plan(np.random.default_rng(14), subjects=20)
    assert compare_scores(rows, seed=1) == compare_scores(rows, seed=1)
    assert compare_scores(rows, seed=1) != compare_scores(rows, seed=2)


def test_extremes_have_no_warning():
    constant = np.full((3, 8), 0.25)
    assert crossed_interval(constant).low == crossed_interval(constant).high == 0.25
    assert p_value(np.zeros((3, 8))) == 1.0
    assert p_value(np.full((3, 1), 0.2)) == 1.0
    assert crossed_interval(np.full((2, 1), 0.2)).high == np.inf
    assert p_value(np.full((1, 6), 0.1)) == pytest.approx(2 / 64)


def test_broken_tables_are_refused():
    rows = plan(np.random.default_rng(15), subjects=4)
    with pytest.raises(DataError, match="lacks 1 of 12"):
        compare_scores(rows[:-1])
    with pytest.raises(DataError, match="twice"):
        compare_scores([*rows, rows[0]])
    with pytest.raises(DataError, match="nan"):
        compare_scores([Score("a", 0.1, 0, "s", float("nan"))])
    with pytest.raises(DataError, match="same --seeds"):
        compare_scores([row for row in rows if row.method == "scratch" or row.seed < 2])
    with pytest.raises(DataError, match="no score"):
        compare_scores([])
