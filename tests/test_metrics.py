"""Metrics against a confusion counted by hand, and against scikit-learn on random labels."""

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, precision_score, recall_score

from pipeline.arrays import Ints
from pipeline.reports.curves import Reach
from pipeline.reports.metrics import NONE, ClassMetrics, Measured, measure

CLASSES = ["emu", "cow", "dog", "cat"]
# true, labels kept, confidence, labelled: counted by hand below.
CASES = [
    ("cat", ["cat", "dog"], 0.9, True),
    ("cat", ["cow", "cat"], 0.8, True),
    ("cat", ["cat", "cow"], 0.5, True),
    ("dog", ["dog", "cat"], 0.6, False),  # right, but abstained
    ("dog", ["cat", "cow"], 0.4, True),
]


def indices(names: list[str]) -> Ints:
    return np.array([CLASSES.index(n) if n in CLASSES else NONE for n in names], np.int64)


def measured(cases: list[tuple[str, list[str], float, bool]], threshold: float) -> Measured:
    true, ranked, confidence, labelled = (list(column) for column in zip(*cases, strict=True))
    return measure(
        indices(true),
        np.array([indices(names) for names in ranked]),
        np.array(confidence),
        np.array(labelled),
        classes=CLASSES,
        threshold=threshold,
    )


def test_a_confusion_counted_by_hand() -> None:
    metrics = measured(CASES, threshold=0.5).metrics
    assert (metrics.images, metrics.labelled, metrics.top_k) == (5, 4, 2)
    assert metrics.accuracy == pytest.approx(3 / 5)
    assert metrics.top_k_accuracy == pytest.approx(4 / 5)
    assert metrics.per_class == [
        ClassMetrics("emu", images=0, recall=None, precision=None),
        ClassMetrics("cow", images=0, recall=None, precision=0),
        ClassMetrics("dog", images=2, recall=1 / 2, precision=1),
        ClassMetrics("cat", images=3, recall=2 / 3, precision=2 / 3),
    ]
    assert metrics.macro_recall == pytest.approx((1 / 2 + 2 / 3) / 2)  # no cow, no recall of cows
    assert (metrics.worst_class, metrics.worst_recall) == ("dog", 0.5)
    squares = [0.1**2, 0.8**2, 0.5**2, 0.4**2, 0.4**2]  # right, wrong, right, right, wrong
    assert metrics.brier == pytest.approx(sum(squares) / 5)
    gaps = [0.1, 0.8, 0.5, 0.4, 0.4]  # five images are five bins of one
    assert metrics.ece == pytest.approx(sum(gaps) / 5)
    # Of the labels given, surest first: right, wrong, right, wrong.
    assert metrics.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert metrics.coverage_at[0] == Reach(0.9, 1 / 5, 0.9)


@pytest.mark.parametrize(
    ("threshold", "coverage", "right"),
    [
        (0.0, 4 / 5, 2 / 4),  # the abstained image is not covered, however low the bar
        (0.5, 3 / 5, 2 / 3),  # at the bar is covered
        (0.51, 2 / 5, 1 / 2),
        (0.9, 1 / 5, 1.0),
        (0.95, 0.0, None),
    ],
)
def test_coverage_and_accuracy_above_a_bar(
    threshold: float, coverage: float, right: float | None
) -> None:
    metrics = measured(CASES, threshold).metrics
    assert metrics.threshold == threshold
    assert metrics.coverage == pytest.approx(coverage)
    assert metrics.accuracy_above == (None if right is None else pytest.approx(right))


def test_a_confidence_stored_in_single_precision_reaches_its_own_bar() -> None:
    confidence = float(np.float32(0.7))  # 0.699999988 as Parquet gives it back
    told = measured([("cat", ["cat"], confidence, True)], threshold=0.7)
    assert told.metrics.coverage == 1


def test_of_two_worst_classes_the_larger_is_named() -> None:
    cases = [("emu", ["cat"], 0.5, True)] + 2 * [("dog", ["cat"], 0.5, True)]
    assert measured(cases, 0.5).metrics.worst_class == "dog"


def test_nothing_but_abstentions_has_no_curve() -> None:
    told = measured([("cat", ["cat"], 0.2, False), ("dog", ["cat"], 0.1, False)], 0.0)
    assert (told.metrics.coverage, told.metrics.aurc, told.curve) == (0, None, [])
    assert [found.threshold for found in told.metrics.coverage_at] == [None] * 3
    assert told.metrics.accuracy == 0.5  # of the top label


def test_one_class_is_measured_too() -> None:
    zeros, right = np.zeros(3, np.int64), np.array([True] * 3)
    confidence = np.ones(3, np.float32)
    told = measure(zeros, zeros[:, None], confidence, right, classes=["a"], threshold=0.5)
    assert (told.metrics.accuracy, told.metrics.ece, told.metrics.aurc) == (1, 0, 0)


@pytest.mark.parametrize("classes", [2, 7, 1000])
def test_random_labels_measure_as_scikit_learn_measures_them(classes: int) -> None:
    random, n = np.random.default_rng(classes), 4000
    true = random.integers(0, classes, n)
    ranked = np.stack([random.permutation(classes)[:2] for _ in range(n)])
    ranked[: n // 2, 0] = true[: n // 2]
    confidence = random.random(n).round(2).astype(np.float32)
    names = [f"c{number}" for number in range(classes)]
    given = np.ones(n, bool)
    metrics = measure(true, ranked, confidence, given, classes=names, threshold=0).metrics
    said = ranked[:, 0]
    assert metrics.accuracy == metrics.accuracy_above == pytest.approx(accuracy_score(true, said))
    present = np.unique(true)
    recalls = recall_score(true, said, average=None, labels=present)
    assert metrics.macro_recall == pytest.approx(recalls.mean())
    assert metrics.worst_recall == pytest.approx(recalls.min())
    worst = {names[at] for at in present[recalls == recalls.min()]}
    assert metrics.worst_class in worst
    found = [c.recall for c in metrics.per_class if c.recall is not None]
    assert found == pytest.approx(recalls)
    every = {"labels": range(classes), "average": None, "zero_division": math.nan}
    precisions = precision_score(true, said, **every)
    told = [math.nan if c.precision is None else c.precision for c in metrics.per_class]
    assert told == pytest.approx(precisions, nan_ok=True)
    assert metrics.brier == pytest.approx(brier_score_loss(said == true, confidence))


def test_the_order_of_rows_never_matters() -> None:
    random, n = np.random.default_rng(0), 500
    true, ranked = random.integers(0, 4, n), random.integers(0, 4, (n, 3))
    confidence = random.integers(0, 5, n) / 4  # many ties
    labelled, order = random.random(n) < 0.8, random.permutation(n)
    both = [
        measure(true[by], ranked[by], confidence[by], labelled[by], classes=CLASSES, threshold=0.0)
        for by in (np.arange(n), order)
    ]
    assert both[0] == both[1]


def test_no_image_is_refused() -> None:
    none = np.empty(0, np.int64)
    with pytest.raises(ValueError, match="no image to measure"):
        measure(none, none[:, None], none / 1, none > 0, classes=["a"], threshold=0.5)


@pytest.mark.parametrize("short", range(4))
def test_arguments_of_different_length_are_refused(short: int) -> None:
    whole: list[Any] = [
        np.zeros(2, np.int64),
        np.zeros((2, 1), np.int64),
        np.zeros(2),
        np.ones(2, bool),
    ]
    cut = [a[:1] if at == short else a for at, a in enumerate(whole)]
    with pytest.raises(ValueError, match=r"different length: \[1, 2\]"):
        measure(*cut, classes=["a", "b"], threshold=0.5)


@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.1, math.inf])
def test_a_confidence_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"confidence {bad} of row 1 is not between 0 and 1"):
        measured([CASES[0], ("cat", ["cat", "dog"], bad, True)], 0.5)


def test_an_index_out_of_range_is_refused() -> None:
    one, sure = np.array([0]), np.array([1.0])
    for true, ranked, name in ((one + 4, one, "true"), (one, one - 2, "ranked")):
        with pytest.raises(ValueError, match=f"{name} holds a class index"):
            measure(true, ranked[:, None], sure, sure > 0, classes=CLASSES, threshold=0)


def test_a_truth_outside_the_classes_counts_as_wrong_and_as_no_class() -> None:
    cases = [("horse", ["cat"], 0.9, True), ("cat", ["cat"], 0.9, True)]
    metrics = measured(cases, 0.5).metrics
    assert (metrics.accuracy, metrics.macro_recall) == (0.5, 1.0)


def test_a_label_that_was_not_kept_is_never_right() -> None:
    one = np.array([NONE])
    metrics = measure(one, one[:, None], np.array([0.5]), one < 0, classes="a", threshold=0).metrics
    assert (metrics.accuracy, metrics.top_k_accuracy, metrics.macro_recall) == (0, 0, None)
