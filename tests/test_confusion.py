"""Confusions against scikit-learn and against pairs counted by hand."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from pipeline.reports.confusion import ABSTAINED, OTHERS, OUTSIDE, Cell, confusion, grid, in_words

ANIMALS = ["cat", "dog", "emu"]
# cat: 2 right, 3 called dog, 1 abstained; dog: 1 called cat; outside: 1 called emu, 1 abstained.
TRUE = np.array([0, 0, 0, 0, 0, 0, 1, -1, -1])
GIVEN = np.array([0, 1, 1, 0, 1, -1, 0, 2, -1])


def test_pairs_counted_by_hand() -> None:
    assert confusion(TRUE, GIVEN, ANIMALS) == [
        Cell("cat", "dog", 3),
        Cell("cat", "cat", 2),
        Cell(None, None, 1),
        Cell(None, "emu", 1),
        Cell("cat", None, 1),
        Cell("dog", "cat", 1),
    ]


def test_mistakes_in_words_leave_abstentions_and_absent_classes_out() -> None:
    cells = confusion(TRUE, GIVEN, ANIMALS)
    assert in_words(cells) == ["3 of 6 cat were called dog", "1 of 1 dog was called cat"]
    assert in_words(cells, 1) == ["3 of 6 cat were called dog"]


def test_a_grid_has_all_classes_and_columns_for_what_is_none() -> None:
    shown = grid(confusion(TRUE, GIVEN, ANIMALS), ANIMALS)
    assert (shown.rows, shown.columns) == ([*ANIMALS, OUTSIDE], [*ANIMALS, ABSTAINED])
    assert shown.images.tolist() == [[2, 3, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize("classes", [1, 2, 30])
def test_random_labels_are_confused_as_scikit_learn_counts_them(classes: int) -> None:
    random = np.random.default_rng(classes)
    true, given = random.integers(0, classes, 900), random.integers(-1, classes, 900)
    names = [f"c{number}" for number in range(classes)]
    shown = grid(confusion(true, given, names), names)
    expected = confusion_matrix(true, given, labels=[*range(classes), -1])[:-1]
    assert shown.images.tolist() == expected.tolist()


def test_of_many_classes_the_most_mistaken_are_shown_and_the_rest_is_counted() -> None:
    random, names = np.random.default_rng(0), [f"c{number}" for number in range(1000)]
    true = random.integers(0, 1000, 5000)
    given = true.copy()
    given[:40], true[:40] = 700, 7
    given[40:60], true[40:60] = 8, 900
    given[60:70], true[60:70] = 555, 7
    shown = grid(confusion(true, given, names), names, most=4)
    assert shown.rows == ["c7", "c8", "c700", "c900"]  # in the order of the label set
    assert shown.columns == ["c7", "c8", "c700", "c900", OTHERS, ABSTAINED]
    counts = dict(zip(shown.columns, shown.images[0], strict=True))
    assert (counts["c700"], counts[OTHERS], counts[ABSTAINED]) == (40, 10, 0)
    for row, name in enumerate(shown.rows):
        assert shown.images[row].sum() == (true == names.index(name)).sum()
    assert (shown.shown, in_words(confusion(true, given, names))[0].split(" were")[1]) == (
        4,
        " called c700",
    )
