"""What training is given of a store, and how methods are compared, on numbers made by hand."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, recall_score

from pipeline.training.comparison import Answers, answers, line
from pipeline.training.labelled import Labelled, soft_targets

FRAME = pl.DataFrame(
    {
        "image_id": ["1", "2", "3", "4"],
        "label": ["cat", "dog", "cat", None],
        "split": ["train", "valid", "test", "train"],
        "kept": [True, True, False, False],
        "right": [None, None, "dog", None],
    }
)
FOUND = Labelled(FRAME, ["cat", "dog", "owl"], by_truth=True)


def test_a_split_is_of_the_kept_images_and_the_measured_ones_are_those_with_an_answer() -> None:
    assert FOUND.rows("train").tolist() == [0]
    assert FOUND.rows("valid").tolist() == [1]
    assert FOUND.measured().tolist() == [2]
    assert FOUND.index_of("label", np.arange(4)).tolist() == [0, 1, 0, -1]


def test_soft_targets_share_what_is_left_among_the_classes_that_are_not_told() -> None:
    frame = pl.DataFrame(
        {"topk_labels": [["dog", "cat"], ["owl", "dog"]], "topk_scores": [[0.7, 0.2], [0.9, 0.1]]}
    )
    expected = [[0.2, 0.7, 0.1], [0.0, 0.1, 0.9]]
    assert soft_targets(frame, ["cat", "dog", "owl"]) == pytest.approx(np.array(expected), abs=1e-6)


def test_soft_targets_of_independent_scores_sum_to_one_all_the_same() -> None:
    frame = pl.DataFrame({"topk_labels": [["dog", "cat"]], "topk_scores": [[0.9, 0.6]]})
    assert soft_targets(frame, ["cat", "dog"]) == pytest.approx(np.array([[0.4, 0.6]]))


def test_a_line_is_what_scikit_learn_counts() -> None:
    rng = np.random.default_rng(0)
    right, said = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    told = line("m", Answers(said, np.full(200, 0.5, np.float32)), right, 1.0)
    assert told.accuracy == pytest.approx(accuracy_score(right, said))
    assert told.macro_recall == pytest.approx(recall_score(right, said, average="macro"))


def test_the_calibration_error_is_how_far_scores_are_from_what_is_right() -> None:
    right = np.zeros(100, np.int64)
    said = Answers(np.tile([0, 1], 50), np.full(100, 0.8, np.float32))
    assert line("m", said, right, None).calibration_error == pytest.approx(0.3, abs=1e-2)


def test_nothing_to_compare_is_null_and_no_warning() -> None:
    nothing = np.empty(0, np.int64)
    told = line("m", Answers(nothing, np.empty(0, np.float32)), nothing, None)
    assert (told.accuracy, told.macro_recall, told.calibration_error) == (None, None, None)


def test_the_likeliest_class_is_the_answer() -> None:
    said = answers(np.array([[0.1, 0.9], [0.7, 0.3]], np.float32))
    assert said.labels.tolist() == [1, 0]
    assert said.scores.tolist() == pytest.approx([0.9, 0.7])
