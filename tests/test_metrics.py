"""Metrics against a confusion counted by hand, and against scikit-learn on random labels."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, precision_score, recall_score

from pipeline.reports.metrics import ClassMetrics, Metrics, measure

# true, labels kept, confidence, labelled: counted by hand below.
CASES = [
    ("cat", ["cat", "dog"], 0.9, True),
    ("cat", ["cow", "cat"], 0.8, True),
    ("cat", ["cat", "cow"], 0.5, True),
    ("dog", ["dog", "cat"], 0.6, False),  # right, but abstained
    ("dog", ["cat", "cow"], 0.4, True),
]


def measured(cases: list[tuple[str, list[str], float, bool]], threshold: float) -> Metrics:
    true, ranked, confidence, labelled = zip(*cases, strict=True)
    classes = ["emu", "cow", "dog", "cat"]
    return measure(true, ranked, confidence, labelled, classes=classes, threshold=threshold)


def test_a_confusion_counted_by_hand() -> None:
    metrics = measured(CASES, threshold=0.5)
    assert metrics.images == 5
    assert metrics.accuracy == pytest.approx(3 / 5)
    assert metrics.top_k_accuracy == pytest.approx(4 / 5)
    assert metrics.per_class == [
        ClassMetrics("emu", images=0, recall=None, precision=None),
        ClassMetrics("cow", images=0, recall=None, precision=0),
        ClassMetrics("dog", images=2, recall=1 / 2, precision=1),
        ClassMetrics("cat", images=3, recall=2 / 3, precision=2 / 3),
    ]
    assert metrics.macro_recall == pytest.approx((1 / 2 + 2 / 3) / 2)  # no cow, no recall of cows


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
    metrics = measured(CASES, threshold)
    assert metrics.threshold == threshold
    assert metrics.coverage == pytest.approx(coverage)
    assert metrics.accuracy_above == (None if right is None else pytest.approx(right))


def test_a_confidence_stored_in_single_precision_reaches_its_own_bar() -> None:
    confidence = float(np.float32(0.7))  # 0.699999988 as Parquet gives it back
    assert measured([("cat", ["cat"], confidence, True)], threshold=0.7).coverage == 1


@pytest.mark.parametrize("seed", range(3))
def test_random_labels_measure_as_scikit_learn_measures_them(seed: int) -> None:
    random, classes = np.random.default_rng(seed), [f"c{number}" for number in range(7)]
    true = random.choice(classes, 200).tolist()
    ranked = [random.permutation(classes)[:3].tolist() for _ in true]
    said = [labels[0] for labels in ranked]
    metrics = measure(true, ranked, [0.5] * 200, [True] * 200, classes=classes, threshold=0.1)
    assert metrics.accuracy == metrics.accuracy_above == pytest.approx(accuracy_score(true, said))
    assert metrics.macro_recall == pytest.approx(recall_score(true, said, average="macro"))
    each = {"labels": classes, "average": None}
    assert [c.recall for c in metrics.per_class] == pytest.approx(recall_score(true, said, **each))
    precisions = [c.precision for c in metrics.per_class]
    assert precisions == pytest.approx(precision_score(true, said, **each))


def test_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="no image to measure"):
        measure([], [], [], [], classes=["a"], threshold=0.5)


@pytest.mark.parametrize("short", range(4))
def test_arguments_of_different_length_are_refused(short: int) -> None:
    lists: list[list[object]] = [["a", "b"], [["a"], ["b"]], [0.5, 0.5], [True, True]]
    lists[short].pop()
    with pytest.raises(ValueError, match=r"shorter|longer"):
        measure(*lists, classes=["a", "b"], threshold=0.5)  # type: ignore[arg-type]


def test_a_truth_outside_the_classes_counts_as_wrong_and_as_no_class() -> None:
    metrics = measured([("horse", ["cat"], 0.9, True), ("cat", ["cat"], 0.9, True)], 0.5)
    assert (metrics.accuracy, metrics.macro_recall) == (0.5, 1.0)
