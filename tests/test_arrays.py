"""Vectors of length 1 pass, and everything that has no length 1 is refused by name and row."""

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.arrays import require_unit_rows, unit_rows


def test_unit_rows_divides_by_the_length_of_each_row() -> None:
    rows = unit_rows(np.array([[3, 4], [0, -5], [1, 0]]))  # lengths 5, 5 and 1
    assert rows.dtype == np.float32
    assert rows.tolist() == [pytest.approx([0.6, 0.8]), [0, -1], [1, 0]]


def test_unit_rows_leaves_what_it_was_handed_alone() -> None:
    given = np.array([[3, 4]], np.float32)
    unit_rows(given)
    assert given.tolist() == [[3, 4]]


def test_half_precision_is_scaled_in_single_precision() -> None:
    long = np.full((1, 512), 60_000, np.float16)  # the square of 60,000 overflows float16
    assert unit_rows(long)[0] == pytest.approx(512**-0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([0.0, 0.0], "row 1 has length 0.0"),
        ([np.nan, 1.0], "row 1 has length nan"),
        ([np.inf, 1.0], "row 1 has length inf"),
    ],
)
def test_a_row_without_direction_is_named(row: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        unit_rows(np.array([[1.0, 0.0], row]))


@pytest.mark.parametrize(
    "rows",
    [
        np.eye(3),
        np.array([[0.6, 0.8]]),
        np.array([[0.6, 0.8]], np.float16),  # 0.6001 and 0.8: length 1.0001
        np.array([[1.0009, 0], [0.9991, 0]]),
        np.empty((0, 8)),
    ],
)
def test_rows_of_length_one_pass(rows: npt.NDArray[np.float64]) -> None:
    require_unit_rows("rows", rows)


def test_vectors_stored_as_half_precision_pass() -> None:
    rows = np.random.default_rng(0).normal(size=(500, 768))
    require_unit_rows("rows", unit_rows(rows).astype(np.float16))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (np.array([1.0, 0.0]), r"cats must have 2 dimensions, got shape \(2,\)"),
        (np.ones((1, 1, 1)), r"got shape \(1, 1, 1\)"),
        (np.array([[1.0, 0], [1.0011, 0]]), "unit length; row 1 is not"),
        (np.array([[1.0, 0], [0.9989, 0]]), "unit length; row 1 is not"),
        (np.array([[1.0, 0], [1, 0], [np.nan, 0]]), "unit length; row 2 is not"),
        (np.array([[np.inf, 0]]), "unit length; row 0 is not"),
        (np.array([[0.0, 0]]), "unit length; row 0 is not"),
        (np.array([[0.5, 0], [9, 9]]), "unit length; row 0 is not"),  # the first, not the worst
    ],
)
def test_other_rows_are_refused_by_name_and_number(
    rows: npt.NDArray[np.float64], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        require_unit_rows("cats", rows)
