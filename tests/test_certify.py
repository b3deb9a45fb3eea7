"""What is certified: bounds by hand, by SciPy's test, by enumeration, and by many draws."""

from itertools import combinations
from math import comb, log

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.arrays import Bools, Floats
from pipeline.labels.certify import accuracy, answers_needed, certify, lower_bound, thresholds
from pipeline.labels.sampling import draw

MANY = 10**9  # images: so many that drawing without putting back is no different


@pytest.mark.parametrize(("right", "answers"), [(59, 59), (58, 59), (190, 200), (1, 3), (500, 800)])
def test_the_bound_is_the_exact_binomial_one(right: int, answers: int) -> None:
    theirs = binomtest(right, answers, alternative="greater").proportion_ci(0.95, "exact")
    assert lower_bound(right, answers, MANY) == pytest.approx(theirs.low, abs=1e-9)


def test_perfect_answers_by_hand() -> None:
    # n perfect answers prove a precision p when p ** n <= 0.05.
    assert [answers_needed(p, 0) for p in (0.9, 0.95, 0.99)] == [
        int(-(log(0.05) // log(p) * -1)) + 1 for p in (0.9, 0.95, 0.99)
    ]
    assert (answers_needed(0.95, 0), answers_needed(0.99, 0)) == (59, 299)
    assert lower_bound(59, 59, MANY) >= 0.95 > lower_bound(58, 58, MANY)


def test_of_few_images_the_bound_is_that_of_all_samples_there_are() -> None:
    images, answers = 12, 5
    for right in range(answers + 1):
        possible = []
        for good in range(images + 1):
            draws = list(combinations([True] * good + [False] * (images - good), answers))
            as_many = sum(sum(drawn) >= right for drawn in draws) / comb(images, answers)
            if as_many > 0.05:
                possible.append(good / images)
        assert lower_bound(right, answers, images) == pytest.approx(min(possible))
    assert lower_bound(7, 10, 10) == 0.7  # all are known


def test_accuracy_is_weighted_and_its_interval_that_of_scipy() -> None:
    right = np.array([True] * 180 + [False] * 20)
    found = accuracy(right, np.ones(200), MANY)
    theirs = binomtest(180, 200).proportion_ci(0.95, "exact")
    assert (found.value, found.low, found.high) == pytest.approx((0.9, theirs.low, theirs.high))
    # A third answer of the weight of both others: half right, and as good as (4 ** 2) / 6 answers.
    uneven = accuracy(np.array([True, True, False]), np.array([1.0, 1.0, 2.0]), MANY)
    assert uneven.value == 0.5
    assert uneven.low == pytest.approx(binomtest(1, 2).proportion_ci(0.95, "exact").low)


def test_thresholds_are_twentieths_by_score_alone() -> None:
    scores = np.linspace(0.001, 0.9, 100, dtype=np.float32)
    tried = thresholds(scores)
    assert [int((scores >= t).sum()) for t in tried] == list(range(5, 101, 5))
    assert thresholds(np.ones(50, np.float32)).tolist() == pytest.approx([0.9999])


def perfect(n: int, wrong: int = 0) -> tuple[Floats, Bools]:
    """Return falling scores of n answers, the `wrong` lowest of which are wrong."""
    return np.linspace(0.9, 0.1, n, dtype=np.float32), np.arange(n) < n - wrong


def test_the_largest_region_that_holds_is_certified() -> None:
    scores, right = perfect(200, wrong=20)
    images = np.repeat(scores, 1000)
    found = certify(scores, right, images, 0.95)
    # 180 right ones at the top, then only wrong ones: 190 answers with 10 wrong prove 91 %.
    assert (found.answers, found.errors) == (180, 0)
    assert found.coverage == pytest.approx(0.9)
    assert found.threshold == pytest.approx(scores[179])
    assert found.proven == pytest.approx(0.05 ** (1 / 180))


def test_the_first_that_fails_ends_it_though_a_later_one_would_hold() -> None:
    scores, right = perfect(200)
    right[:100] = np.arange(100) >= 6  # six errors among the first hundred
    assert certify(scores, right, np.repeat(scores, 1000), 0.95).threshold is None
    assert lower_bound(194, 200, MANY) < 0.95 < lower_bound(1994, 2000, MANY)


@pytest.mark.parametrize(("answers", "target", "more"), [(40, 0.95, 19), (200, 0.99, 99)])
def test_too_few_perfect_answers_are_told_how_many_are_missing(
    answers: int, target: float, more: int
) -> None:
    scores, right = perfect(answers)
    found = certify(scores, right, np.repeat(scores, 1000), target)
    assert found.threshold is None
    assert found.more is not None and found.more >= more


def test_where_the_surest_are_wrong_too_often_there_is_no_way() -> None:
    scores, _ = perfect(200)
    right = np.arange(200) % 4 > 0
    found = certify(scores, right, np.repeat(scores, 1000), 0.95)
    assert (found.threshold, found.more, found.coverage) == (None, None, 0.0)


@pytest.mark.parametrize(("images", "slope"), [(20_000, 0.12), (400, 0.13)])
def test_promises_are_kept_in_draw_after_draw(images: int, slope: float) -> None:
    """Images whose chance to be wrong rises as the score falls, just around what is promised."""
    chance = np.random.default_rng(5)
    scores = chance.random(images).astype(np.float32)
    classes = chance.integers(0, 7, images)
    right = chance.random(images) < 1 - slope * (1 - scores)
    truth, covered, broken, certified = right.mean(), 0, 0, 0
    for seed in range(200):
        drawn = draw(scores, classes, 150, seed)
        said = right[drawn.rows]
        found = accuracy(said, drawn.weight, images)
        covered += found.low <= truth <= found.high
        region = certify(scores[drawn.rows], said, scores, 0.95)
        if region.threshold is not None:
            certified += 1
            broken += right[scores >= region.threshold].mean() < 0.95
    assert covered >= 186  # 93 of 100
    assert broken <= 10  # 5 of 100
    assert certified >= 20  # or the test proves nothing
