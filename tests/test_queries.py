"""Several terms as one vector: worked by hand, and against a slow loop."""

import math
import re
from datetime import datetime

import numpy as np
import pytest

from pipeline.arrays import Floats, unit_rows
from pipeline.errors import InputError
from pipeline.search.queries import Filters, Moments, Term, combine

ROUND = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)  # mean 0, variance 1/2 each way


def term(vector: list[float], kind: str = "text", weight: float = 1.0) -> Term:
    return Term(np.array(vector, np.float32), kind, weight)  # type: ignore[arg-type]


def standings(terms: list[Term], images: Floats) -> list[float]:
    made = combine(terms, Moments.of(images))
    return [float(made.factor * (image @ made.vector) + made.offset) for image in images]


def test_a_term_and_its_like_away_from_it_are_worked_by_hand() -> None:
    # Each cosine lies 0 or +-sqrt(2) of its deviations from its mean; the mean of the two terms.
    half = math.sqrt(2) / 2
    got = standings([term([1, 0]), term([0, 1], weight=-1)], ROUND)
    assert got == pytest.approx([half, -half, -half, half], abs=1e-6)
    got = standings([term([1, 0], weight=3), term([0, 1], weight=-1)], ROUND)
    assert got == pytest.approx([3 * half / 2, -half / 2, -3 * half / 2, half / 2], abs=1e-6)


def test_a_text_is_not_drowned_by_an_image_whose_cosines_spread_ten_times_as_far() -> None:
    moments = Moments(np.zeros(3), np.diag([0.01, 0.0001, 1.0]))
    made = combine([term([1, 0, 0], "image"), term([0, 1, 0])], moments)
    # Deviations 0.1 and 0.01: the vector is (10, 100, 0), of length sqrt(10100).
    assert made.vector == pytest.approx(np.array([10, 100, 0]) / math.sqrt(10100), abs=1e-6)
    assert made.factor == pytest.approx(math.sqrt(10100) / 2)
    image = np.array([0.8, 0.6, 0])  # 8 deviations from the one mean, 60 from the other
    assert made.factor * (made.vector @ image) + made.offset == pytest.approx(34, abs=1e-3)


def test_standings_equal_a_slow_loop_over_the_terms() -> None:
    random = np.random.default_rng(0)
    images = unit_rows(random.normal(size=(50, 6)) + np.array([2, 0, 0, 0, 0, 0]))
    asked = [
        Term(unit_rows(random.normal(size=(1, 6)))[0], "image", weight)
        for weight in (1.0, 0.3, -2.0, 5.0)
    ]
    expected = []
    for image in images:
        total = 0.0
        for one in asked:
            cosines = [float(np.dot(one.vector, other)) for other in images]
            mean = sum(cosines) / len(cosines)
            deviation = math.sqrt(sum((c - mean) ** 2 for c in cosines) / len(cosines))
            total += one.weight * (float(np.dot(one.vector, image)) - mean) / deviation
        expected.append(total / sum(abs(one.weight) for one in asked))
    assert standings(asked, images) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", [1e308, 1e-320])
def test_only_the_ratios_of_weights_count(size: float) -> None:
    plain = standings([term([1, 0]), term([0, 1], weight=-1)], ROUND)
    assert standings([term([1, 0], weight=size), term([0, 1], weight=-size)], ROUND) == plain


@pytest.mark.parametrize("moment", ["0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00"])
def test_a_moment_that_has_no_utc_is_told(moment: str) -> None:
    with pytest.raises(InputError, match=r"until .* outside the years 1 to 9999"):
        Filters(until=datetime.fromisoformat(moment))


def test_where_all_images_are_the_same_to_a_term_it_ranks_none() -> None:
    images = np.array([[1, 0, 0], [-1, 0, 0]], np.float32)
    got = standings([term([1, 0, 0]), term([0, 1, 0])], images)
    assert got == pytest.approx([0.5, -0.5], abs=1e-5)
    alone = standings([term([1, 0, 0]), term([0, 1, 0])], images[:1])
    assert alone == pytest.approx([0.0], abs=1e-5)


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ([term([1, 0], weight=-1)], "of a weight above 0"),
        ([term([1, 0], weight=-1), term([0, 1], weight=-2)], "of a weight above 0"),
        ([term([1, 0]), term([1, 0], weight=-1)], "cancel one another out"),
        ([term([1, 0]), term([1, 1e-4], weight=-1)], "cancel one another out"),
        ([term([1, 0]), term([-1, 0])], "cancel one another out"),
    ],
)
def test_what_asks_for_nothing_is_told(terms: list[Term], says: str) -> None:
    with pytest.raises(InputError, match=says):
        combine(terms, Moments.of(ROUND))


@pytest.mark.parametrize("weight", [0.0, math.nan, math.inf])
def test_a_weight_is_a_number_and_not_0(weight: float) -> None:
    with pytest.raises(InputError, match="weight of a term"):
        term([1, 0], weight=weight)


@pytest.mark.parametrize("vector", [[2, 0], [math.nan, 0], [0, 0]])
def test_a_term_is_of_unit_length(vector: list[float]) -> None:
    with pytest.raises(ValueError, match="unit length"):
        term(vector)


@pytest.mark.parametrize("least", [-0.1, 1.5, math.nan])
def test_a_confidence_is_0_to_1(least: float) -> None:
    with pytest.raises(InputError, match=re.escape(f"must be 0 to 1, got {least}")):
        Filters(min_confidence=least)
