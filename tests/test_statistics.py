"""Statistics of reports: interquartile means and their intervals, summaries of groups, learning curves."""

import statistics as plain
import time
import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.stats
from searches import search

from jaxprl.report import sections, statistics
from jaxprl.report.groups import Group, curves, summary
from jaxprl.report.reading import Search, in_ranges


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 31, 32])
def test_the_interquartile_mean_is_that_of_the_middle_half(count):
    values = np.random.default_rng(count).normal(size=(6, count))
    want = [plain.fmean(sorted(row)[count // 4 : count - count // 4]) for row in values]
    np.testing.assert_allclose(statistics.interquartile_mean(values), want, rtol=0, atol=1e-11)
    np.testing.assert_allclose(statistics.interquartile_mean(values.T, axis=0), want, rtol=0, atol=1e-11)


def bca(values, draws):
    """The BCa interval of the interquartile mean of `values` by its formula, with the resamples `draws` [R, S]."""

    def iqm(sample):
        cut = len(sample) // 4
        return round(plain.fmean(sorted(sample)[cut : len(sample) - cut]), 12)

    normal, whole = plain.NormalDist(), iqm(values)
    means = np.array([iqm(values[draw]) for draw in draws])
    bias = normal.inv_cdf((np.mean(means < whole) + np.mean(means <= whole)) / 2)
    without = np.array([iqm(np.delete(values, n)) for n in range(len(values))])
    spread = without.mean() - without
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    shifted = [bias + normal.inv_cdf(tail) for tail in (0.025, 0.975)]
    return np.quantile(means, [normal.cdf(bias + each / (1 - acceleration * each)) for each in shifted])


@pytest.mark.parametrize("count", [3, 8, 32])
def test_intervals_are_bca(count):
    values = np.random.default_rng(count).exponential(size=count)
    band = statistics.band(values[None], seed=7)
    rng = np.random.default_rng(7)
    draws = np.concatenate([rng.integers(count, size=(100, count)) for _ in range(statistics.RESAMPLES // 100)])
    np.testing.assert_allclose([band.low[0], band.high[0]], bca(values, draws), atol=1e-9)


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    rng = np.random.default_rng(5)
    for true, draws in ((0.0, rng.normal(size=(400, 32))), (0.7377, rng.exponential(size=(400, 32)))):
        low, high = statistics.band(draws)[1:]
        assert 0.92 <= np.mean((low <= true) & (true <= high)) <= 0.98


def test_bands_are_deterministic_hold_their_middle_and_draw_the_same_seeds_everywhere():
    values = np.random.default_rng(3).uniform(size=(5, 9))
    first, again = statistics.band(values), statistics.band(values)
    np.testing.assert_array_equal(first, again)
    assert (first.low <= first.middle).all()
    assert (first.middle <= first.high).all()
    turned = statistics.band(values[::-1])
    np.testing.assert_array_equal(turned, np.array(first)[:, ::-1])
    moved = statistics.band(np.concatenate([values, values + 1]))
    np.testing.assert_allclose(moved.low[5:], moved.low[:5] + 1, atol=1e-11)
    assert not np.array_equal(statistics.band(values, seed=1).low, first.low)


@pytest.mark.parametrize(
    "values", [[0.3], [0.1] * 2, [0.1] * 7, [1.0] * 32, [0.0] * 3], ids=lambda values: f"{len(values)} of {values[0]}"
)
def test_equal_values_are_their_own_interval(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        middle, low, high = statistics.band(np.array([values] * 3))
    assert middle.shape == low.shape == high.shape == (3,)
    np.testing.assert_array_equal(low, middle)
    np.testing.assert_array_equal(high, middle)
    np.testing.assert_allclose(middle, values[0], rtol=1e-15)


def test_where_no_seed_alone_matters_the_interval_is_the_percentile_one():
    values = np.array([[1.0] * 26 + [0.0] * 6, np.linspace(0, 1, 32)])  # one fewer of either leaves the mean at 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        band = statistics.band(values)
    draws = np.random.default_rng(4).integers(32, size=(20_000, 32))
    means = scipy.stats.trim_mean(values[0][draws], 0.25, axis=-1)
    assert (band.middle[0], band.high[0]) == (1.0, 1.0)
    assert band.low[0] == pytest.approx(np.quantile(means, 0.025), abs=0.03)
    np.testing.assert_allclose(np.array(statistics.band(values[1:]))[:, 0], np.array(band)[:, 1], atol=1e-11)


def test_bands_are_fast_and_small():
    values = np.random.default_rng(0).uniform(size=(240, 32))
    statistics.band(values[:1])  # imports
    tracemalloc.start()
    began = time.perf_counter()
    statistics.band(values)
    seconds, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 3  # 0.3 s on an idle core
    assert peak < 64 * 2**20


def test_a_step_holds_until_the_next():
    held = statistics.held([(2, 0.5), (10, 0.75)], np.array([1.0, 2.0, 9.0, 10.0, 99.0]))
    np.testing.assert_array_equal(held, [np.nan, 0.5, 0.5, 0.75, 0.75])


def test_programs_to_solve_count_those_that_never_did():
    programs = [100, 300, 200, float("inf")]
    assert [statistics.to_solve(programs, share) for share in (0.25, 0.5, 0.75, 1)] == [100, 200, 300, float("inf")]


def test_a_summary_by_hand():
    searches = [search(0, [(1, 0.0), (40, 1.0)], solved=True), search(1, [(1, 0.5)]), search(2, [(1, 0.0), (9, 0.6)])]
    found = summary(Group("T", "m", [], searches))
    assert (found.searches, found.finished, found.solved, found.programs) == (3, 3, 1, 50)
    assert found.mean == pytest.approx(0.7)
    assert found.deviation == pytest.approx(np.std([1, 0.5, 0.6], ddof=1))
    assert found.quartiles == (40, float("inf"), float("inf"))


def test_searches_that_run_are_no_failures():
    going = [search(seed, [(1, 0.0)], finished=False) for seed in range(2, 5)]
    group = Group("T", "m", [], [search(0, [(1, 1.0)], solved=True), search(1, [(9, 0.5)]), *going, Search(5)])
    found = summary(group)
    assert (found.searches, found.begun, found.finished, found.solved) == (6, 5, 2, 1)
    row = sections.results([group], {"m": 0})
    assert ">5/6<" in row
    assert "50% <span class='dim'>of 2</span>" in row
    assert "2 of 6 finished" in row


def test_curves_end_where_the_first_unsolved_search_does_and_leave_out_those_without_rows():
    bare = Search(2, [], search(2, [(30, 1.0)], solved=True).result)
    short = Group(
        "T", "short", [], [search(0, [(1, 0.0), (40, 0.5)]), search(1, [(1, 0.5), (9, 1.0)], solved=True), bare]
    )
    long = Group("T", "long", [], [search(0, [(1, 0.0), (100, 0.5)])])
    for place in ("evaluated", "seconds"):
        (_, first), (_, second) = curves([short, long], place)
        assert (first.at[0], first.at[-1], first.searches) == (1, 40, 2)
        assert first.band.middle[-1] == 0.75  # the solved one holds its return
        assert second.at[-1] == 100
    assert curves([Group("T", "m", [], [bare])], "evaluated") == []


def test_curves_hold_last_values_and_stop_where_an_unfinished_search_is():
    ended = Group("T", "ended", [], [search(0, [(1, 0.0), (10, 1.0)], solved=True)])
    running = Group(
        "T", "running", [], [search(0, [(1, 0.0), (100, 0.5)]), search(1, [(1, 0.0), (50, 0.25)], finished=False)]
    )
    (_, first), (_, second) = curves([ended, running], "evaluated")
    assert (first.at[0], first.at[-1], first.band.middle[-1]) == (1, 100, 1.0)
    assert (second.at[-1], second.band.middle[-1]) == (50, 0.125)


def test_numbers_in_words():
    assert in_ranges([5, 0, 1, 2, 9]) == "0-2,5,9"
