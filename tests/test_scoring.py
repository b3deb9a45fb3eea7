"""Scores and votes against answers worked out by hand, and against the formulas restated slowly."""

import math
import warnings

import numpy as np
import pytest

from pipeline.arrays import Floats, unit_rows
from pipeline.labels.scoring import Scores, score
from pipeline.labels.voting import top, vote
from pipeline.tables import ABSTAIN

EYE = np.eye(2, dtype=np.float32)
MIXED = np.array([[0.6, 0.8]], np.float32)  # cosines 0.6 and 0.8 with the rows of EYE


def random_rows(n: int, d: int, seed: int) -> Floats:
    return unit_rows(np.random.default_rng(seed).normal(size=(n, d)))


def given(rows: list[list[float]], rejects: list[list[float]] | None = None) -> Scores:
    """Return scores as if a model had given them."""
    classes = np.array(rows, np.float32)
    against = np.array(rejects or [[] for _ in rows], np.float32)
    return Scores(classes, against, np.zeros(len(rows), np.float32))


def test_softmax_by_hand() -> None:
    scores = score(MIXED, EYE, scale=5.0)  # logits 3 and 4: the second is 1 / (1 + 1/e)
    assert scores.classes[0] == pytest.approx([0.268941, 0.731059], abs=1e-6)
    assert scores.unknown == pytest.approx([0.2])
    assert scores.rejects.shape == (1, 0)


def test_sigmoid_by_hand() -> None:
    scores = score(MIXED, EYE, scale=5.0, bias=-3.0)  # logits 0 and 1
    assert scores.classes[0] == pytest.approx([0.5, 0.731059], abs=1e-6)
    scores = score(MIXED, EYE, scale=5.0, bias=-3.0, rejects=EYE[:1])
    assert scores.classes[0] == pytest.approx([0.5, 0.731059], abs=1e-6)  # each on its own
    assert scores.rejects[0] == pytest.approx([0.5])


def test_reject_prompts_take_their_share_of_a_softmax_but_are_no_class() -> None:
    scores = score(MIXED, EYE, scale=5.0, rejects=-EYE)  # logits 3, 4, -3, -4
    total = math.exp(3) + math.exp(4) + math.exp(-3) + math.exp(-4)
    assert scores.classes[0] == pytest.approx([math.exp(3) / total, math.exp(4) / total])
    assert scores.rejects[0] == pytest.approx([math.exp(-3) / total, math.exp(-4) / total])
    assert score(MIXED, -EYE, scale=5.0, rejects=EYE).unknown == pytest.approx([1.6])


@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize("bias", [None, -4.0])
def test_scores_are_the_formula_restated_slowly(classes: int, bias: float | None) -> None:
    images, texts = random_rows(3, 16, seed=0), random_rows(classes, 16, seed=1)
    scores = score(images, texts, scale=20.0, bias=bias)
    for image, got, unknown in zip(images, scores.classes, scores.unknown, strict=True):
        cosines = [sum(float(a) * float(b) for a, b in zip(image, t, strict=True)) for t in texts]
        if bias is None:
            weights = [math.exp(20 * cosine) for cosine in cosines]
            wanted = [weight / sum(weights) for weight in weights]
        else:
            wanted = [1 / (1 + math.exp(-(20 * cosine + bias))) for cosine in cosines]
        assert got == pytest.approx(wanted, rel=1e-4)
        assert unknown == pytest.approx(1 - max(cosines), abs=1e-5)


def test_extreme_scales_neither_overflow_nor_warn() -> None:
    with np.errstate(over="raise", invalid="raise"):
        assert score(EYE, EYE, scale=1e4).classes.tolist() == [[1, 0], [0, 1]]
    with warnings.catch_warnings(action="error"):
        assert score(EYE, -EYE, scale=1e4, bias=0.0).classes.tolist() == [[0, 0.5], [0.5, 0]]


@pytest.mark.parametrize(
    ("images", "classes", "rejects", "scale", "says"),
    [
        ([[2.0, 0.0]], EYE, None, 1.0, "images must have rows of unit length; row 0 is not"),
        ([[1.0, 0.0], [np.nan, 0.0]], EYE, None, 1.0, "images must .* row 1 is not"),
        ([[1.0, 0.0]], [[np.nan, 1.0], [1.0, 0.0]], None, 1.0, "classes must .* row 0"),
        ([[1.0, 0.0]], EYE, [[3.0, 0.0]], 1.0, "rejects must have rows of unit length"),
        ([1.0, 0.0], EYE, None, 1.0, "images must have 2 dimensions"),
        ([[1.0, 0.0]], np.eye(3), None, 1.0, "images are 2 wide, classes 3: two models?"),
        ([[1.0, 0.0]], EYE, np.eye(3), 1.0, "classes are 2 wide, rejects 3: two models?"),
        ([[1.0, 0.0]], EYE[:1], None, 1.0, "at least 2 classes to choose between, got 1"),
        ([[1.0, 0.0]], EYE, None, 0.0, "scale must be above 0, got 0"),
        ([[1.0, 0.0]], EYE, None, math.nan, "scale must be above 0, got nan"),
    ],
)
def test_bad_input_is_named(
    images: object, classes: object, rejects: object, scale: float, says: str
) -> None:
    against = None if rejects is None else np.array(rejects, np.float32)
    with pytest.raises(ValueError, match=says):
        score(np.array(images, np.float32), np.array(classes, np.float32), scale=scale,
              rejects=against)  # fmt: skip


def test_no_images_is_no_votes() -> None:
    votes = vote(score(EYE[:0], EYE, scale=1.0), top_k=5, abstain_below=0.5)
    assert votes.label.shape == votes.entropy.shape == (0,)
    assert votes.top_scores.shape == (0, 2)


def test_a_vote_by_hand() -> None:
    votes = vote(given([[0.1, 0.6, 0.3]]), top_k=2, abstain_below=0.0)
    assert votes.label.tolist() == [1]
    assert votes.score == pytest.approx([0.6])
    assert votes.margin == pytest.approx([0.3])
    assert votes.top_labels.tolist() == [[1, 2]]
    assert votes.top_scores[0] == pytest.approx([0.6, 0.3])


def test_a_vote_abstains_below_the_bar_and_not_at_it() -> None:
    bar = 0.7  # no number of float32 or float64 exactly
    votes = vote(given([[0.7, 0.3], [0.69, 0.31]]), top_k=1, abstain_below=bar)
    assert votes.label.tolist() == [0, ABSTAIN]
    assert votes.score == pytest.approx([0.7, 0.69])  # kept, so that the bar can be moved later
    assert votes.top_labels.tolist() == [[0], [0]]


def test_a_reject_prompt_wins_by_beating_every_class_and_not_by_a_tie() -> None:
    rejects = [[0.1, 0.2], [0.4, 0.5], [0.1, 0.41], [0.3, 0.4]]
    votes = vote(given([[0.4, 0.3]] * 4, rejects), top_k=1, abstain_below=0.0)
    assert votes.rejected_by.tolist() == [-1, 1, 1, -1]
    assert votes.label.tolist() == [0, ABSTAIN, ABSTAIN, 0]


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_at_a_tie_the_lower_index_comes_first(k: int) -> None:
    table = np.array([[0.2] * 6, [0.1, 0.5, 0.1, 0.5, 0.1, 0.5], [0, 0, 0, 0, 0, 1]], np.float32)
    orders = [[0, 1, 2, 3, 4, 5], [1, 3, 5, 0, 2, 4], [5, 0, 1, 2, 3, 4]]
    assert top(table, k).tolist() == [order[:k] for order in orders]


def test_top_is_the_sorted_row_for_any_k() -> None:
    for columns in (12, 40):  # sorted whole; or found one by one for a small k, else partitioned
        table = np.random.default_rng(0).choice(20, size=(50, columns)).astype(np.float32)  # ties
        table[0] = 0  # nothing fits at all
        before = table.copy()
        for k in (1, 4, 11, 12, 16, 17, 30, 40, 99):
            for row, got in zip(table.tolist(), top(table, k).tolist(), strict=True):
                assert got == sorted(range(columns), key=lambda i: (-row[i], i))[:k]
        assert table.tolist() == before.tolist()  # what is handed in stays as it is


def test_asking_for_more_labels_than_there_are_gives_all() -> None:
    votes = vote(given([[0.1, 0.6, 0.3]]), top_k=50, abstain_below=0.0)
    assert votes.top_labels.tolist() == [[1, 2, 0]]


@pytest.mark.parametrize(
    ("row", "entropy"),
    [
        ([0.25] * 4, math.log(4)),
        ([1.0, 0.0, 0.0, 0.0], 0.0),
        ([0.5, 0.25, 0.25, 0.0], 1.5 * math.log(2)),
        ([1.0, 0.5, 0.5, 0.0], 1.5 * math.log(2)),  # sigmoid scores: made to sum to 1 first
        ([0.0, 0.0, 0.0, 0.0], math.log(4)),  # a sigmoid model that finds nothing knows nothing
    ],
)
def test_entropy_in_nats_by_hand(row: list[float], entropy: float) -> None:
    votes = vote(given([row]), top_k=1, abstain_below=0.0)
    assert votes.entropy == pytest.approx([entropy], abs=1e-6)
