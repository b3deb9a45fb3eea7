"""What agreement and confidence tell of being right, against slow loops."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.reports.bands import EDGES, bands, tells_apart, told_by_agreement


@pytest.mark.parametrize("seed", range(5))
def test_bands_hold_what_a_loop_puts_there(seed: int) -> None:
    random = np.random.default_rng(seed)
    values, right = random.integers(0, 11, 300) / 10, random.random(300) < 0.6
    found = bands(values, right)
    for at, band in enumerate(found):
        last = at == len(found) - 1
        inside = [
            bool(hit)
            for value, hit in zip(values, right, strict=True)
            if EDGES[at] <= value < EDGES[at + 1] or (last and value == 1)
        ]
        assert (band.lowest, band.highest) == (EDGES[at], EDGES[at + 1])
        assert band.images == len(inside)
        assert band.accuracy == pytest.approx(sum(inside) / len(inside))
    assert sum(band.images for band in found) == 300


def test_a_number_in_single_precision_falls_where_it_would_in_double() -> None:
    edges = np.array(EDGES, np.float32)
    assert [band.images for band in bands(edges, edges >= 0)] == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_counted_as_scikit_learn_does(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.integers(0, 11, 200) / 10
    right = random.random(200) < 0.3 + 0.6 * values
    assert tells_apart(values, right) == pytest.approx(roc_auc_score(right, values))


def test_where_all_are_right_nothing_is_told_apart() -> None:
    assert tells_apart(np.array([0.1, 0.9]), np.array([True, True])) is None
    assert tells_apart(np.array([0.1, 0.9]), np.array([False, False])) is None


def test_classes_are_as_a_loop_has_them() -> None:
    random = np.random.default_rng(0)
    agreement, label = random.random(100), random.choice([0, 1, 3], 100)
    right = random.random(100) < 0.5
    told = told_by_agreement(agreement, random.random(100), label, right, classes="abcd")
    assert [each.label for each in told.per_class] == ["a", "b", "d"]
    for each in told.per_class:
        rows = [row for row in range(100) if "abcd"[label[row]] == each.label]
        assert each.images == len(rows)
        assert each.agreement == pytest.approx(np.mean([agreement[row] for row in rows]))
        assert each.accuracy == pytest.approx(np.mean([right[row] for row in rows]))


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_what_is_no_share_never_passes(bad: float) -> None:
    good, label, right = np.array([0.5]), np.array([0]), np.array([True])
    with pytest.raises(ValueError, match="agreement is not between"):
        told_by_agreement(np.array([bad]), good, label, right, classes="a")
    with pytest.raises(ValueError, match="confidence is not between"):
        told_by_agreement(good, np.array([bad]), label, right, classes="a")
