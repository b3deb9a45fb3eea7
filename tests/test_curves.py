"""Curves against slow loops over every order of tied rows, and against rows counted by hand."""

from itertools import pairwise, permutations

import numpy as np
import pytest

from pipeline.arrays import Bools, Doubles
from pipeline.reports.curves import (
    MOST_POINTS,
    Point,
    Reach,
    aurc,
    brier,
    calibration_error,
    points,
    rank,
    reach,
    reliability,
)

YES, NO = True, False


def slow_aurc(confidence: list[float], right: list[bool]) -> float:
    """Return the mean, over all orders of rows that confidence allows, of the mean risk."""
    areas = []
    for order in permutations(range(len(right))):
        if all(confidence[a] >= confidence[b] for a, b in pairwise(order)):
            wrong = np.cumsum([not right[at] for at in order])
            areas.append(np.mean([errors / k for k, errors in enumerate(wrong, start=1)]))
    return float(np.mean(areas))


@pytest.mark.parametrize(
    ("confidence", "right", "by_hand"),
    [
        ([0.9, 0.8, 0.7, 0.6], [YES, NO, YES, NO], (0 + 1 / 2 + 1 / 3 + 2 / 4) / 4),
        ([0.6, 0.7, 0.8, 0.9], [NO, YES, NO, YES], (0 + 1 / 2 + 1 / 3 + 2 / 4) / 4),
        ([0.5, 0.5], [YES, NO], (1 / 2 + 1 / 2) / 2),  # the first is wrong in half of the orders
        ([0.9, 0.5, 0.5], [YES, YES, NO], (0 + 1 / 4 + 1 / 3) / 3),
        ([0.5], [NO], 1),
        ([0.5], [YES], 0),
    ],
)
def test_the_area_under_risk_and_coverage(
    confidence: list[float], right: list[bool], by_hand: float
) -> None:
    area = aurc(rank(np.array(confidence), np.array(right)))
    assert area == pytest.approx(by_hand)
    assert area == pytest.approx(slow_aurc(confidence, right))


@pytest.mark.parametrize("seed", range(8))
def test_the_area_is_the_mean_over_all_orders_of_ties(seed: int) -> None:
    random = np.random.default_rng(seed)
    confidence, right = random.integers(1, 4, 7) / 4, random.random(7) < 0.6
    area = aurc(rank(confidence, right))
    assert area == pytest.approx(slow_aurc(confidence.tolist(), right.tolist()))


def slow_reach(confidence: Doubles, right: Bools, precision: float) -> tuple[int, float | None]:
    best: tuple[int, float | None] = (0, None)
    for bar in confidence:
        kept = right[confidence >= bar]
        if kept.mean() >= precision and len(kept) > best[0]:
            best = (len(kept), float(bar))
    return best


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("precision", [0.5, 0.9, 0.95, 1.0])
def test_coverage_at_a_precision_is_the_largest_that_keeps_it(seed: int, precision: float) -> None:
    random = np.random.default_rng(seed)
    confidence = random.integers(0, 40, 200) / 40
    right = random.random(200) < 0.3 + 0.7 * confidence
    most, bar = slow_reach(confidence, right, precision)
    found = reach(rank(confidence, right), precision, images=250)
    assert found == Reach(precision, most / 250, bar)


def test_a_precision_met_exactly_is_reached_and_one_never_met_is_not() -> None:
    confidence = np.linspace(1, 0.5, 20)
    right = np.ones(20, bool)
    right[19] = False
    ranking = rank(confidence, right)
    assert reach(ranking, 0.95, images=20) == Reach(0.95, 1.0, 0.5)
    assert reach(ranking, 0.96, images=20).coverage == 19 / 20
    wrong = rank(np.array([0.9, 0.8]), np.array([False, True]))
    assert reach(wrong, 0.9, images=2) == Reach(0.9, 0.0, None)


def test_a_curve_has_a_point_for_every_distinct_confidence() -> None:
    confidence = np.array([0.5, 0.9, 0.5, 0.7], np.float32)
    curve = points(rank(confidence, np.array([NO, YES, YES, YES])), images=5)
    nine, seven = float(np.float32(0.9)), float(np.float32(0.7))
    assert curve == [Point(nine, 1 / 5, 1.0), Point(seven, 2 / 5, 1.0), Point(0.5, 4 / 5, 3 / 4)]
    assert points(rank(np.empty(0), np.empty(0, bool)), images=5) == []


def test_a_long_curve_is_thinned_but_keeps_its_ends_and_what_was_asked() -> None:
    random, n = np.random.default_rng(0), 20_000
    confidence, right = random.random(n), random.random(n) < 0.5
    ranking = rank(confidence, right)
    asked = float(ranking.confidence[12_347])
    curve = points(ranking, images=n, keep=[asked])
    assert MOST_POINTS <= len(curve) <= MOST_POINTS + 1
    assert (curve[0].coverage, curve[-1].coverage) == (1 / n, 1.0)
    [kept] = [point for point in curve if point.confidence == asked]
    assert kept.accuracy == pytest.approx(right[confidence >= asked].mean())
    assert np.diff([point.coverage for point in curve]).max() < 1.1 / MOST_POINTS


def test_bins_of_equal_mass_by_hand() -> None:
    confidence = np.array([0.2, 0.4, 0.6, 0.8, 0.9, 1.0])
    right = np.array([NO, YES, NO, YES, YES, YES])
    low, middle, high = reliability(confidence, right, bins=3)
    assert (low.images, low.lowest, low.highest) == (2, 0.2, 0.4)
    assert [low.confidence, low.accuracy] == pytest.approx([0.3, 0.5])
    assert [middle.confidence, middle.accuracy] == pytest.approx([0.7, 0.5])
    assert [high.confidence, high.accuracy] == pytest.approx([0.95, 1.0])
    error = calibration_error([low, middle, high])
    assert error == pytest.approx((0.2 + 0.2 + 0.05) / 3)


def test_a_bin_that_ends_among_equals_takes_its_share_of_right_and_wrong() -> None:
    # Two bins of two: 0.9 and one of the three at 0.5, then the other two; a third are right.
    confidence, right = np.array([0.5, 0.5, 0.9, 0.5]), np.array([NO, YES, YES, NO])
    low, high = reliability(confidence, right, bins=2)
    assert [low.confidence, low.accuracy] == pytest.approx([0.5, 1 / 3])
    assert [high.confidence, high.accuracy] == pytest.approx([0.7, 2 / 3])
    assert (high.lowest, high.highest, low.lowest, low.highest) == (0.5, 0.9, 0.5, 0.5)


def slow_error(confidence: Doubles, right: Bools, bins: int) -> float:
    order = np.argsort(confidence)
    cut = np.split(order, bins)
    return float(np.mean([abs(confidence[at].mean() - right[at].mean()) for at in cut]))


@pytest.mark.parametrize("seed", range(5))
def test_without_ties_the_error_is_that_of_a_sorted_list_cut_in_15(seed: int) -> None:
    random = np.random.default_rng(seed)
    confidence = random.random(600)
    right = random.random(600) < confidence**2
    error = calibration_error(reliability(confidence, right))
    assert error == pytest.approx(slow_error(confidence, right, 15))


@pytest.mark.parametrize("seed", range(5))
def test_bins_share_all_images_among_them_ties_and_odd_numbers_too(seed: int) -> None:
    random = np.random.default_rng(seed)
    confidence = random.integers(0, 6, 101) / 5
    right = random.random(101) < 0.4
    bins = reliability(confidence, right)
    assert len(bins) == 15
    assert sum(b.images for b in bins) == pytest.approx(101)
    assert np.mean([b.confidence for b in bins]) == pytest.approx(confidence.mean())
    assert np.mean([b.accuracy for b in bins]) == pytest.approx(right.mean())
    assert all(b.lowest - 1e-9 <= b.confidence <= b.highest + 1e-9 for b in bins)
    again = random.permutation(101)
    assert reliability(confidence[again], right[again]) == bins


def test_one_confidence_for_all_errs_by_its_distance_from_the_accuracy() -> None:
    confidence, right = np.full(90, 0.8), np.arange(90) < 45
    assert calibration_error(reliability(confidence, right)) == pytest.approx(0.3)


def test_fewer_images_than_bins_are_a_bin_each() -> None:
    [low, high] = reliability(np.array([0.9, 0.3]), np.array([YES, NO]))
    assert [low.confidence, high.confidence] == pytest.approx([0.3, 0.9])


def test_the_brier_score_by_hand() -> None:
    score = brier(np.array([0.9, 0.2, 0.5], np.float32), np.array([YES, YES, NO]))
    assert score == pytest.approx((0.01 + 0.64 + 0.25) / 3)
