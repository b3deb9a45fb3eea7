"""Refinement against slow restatements of its formulas, in double precision and plain loops."""

import math

import numpy as np
import pytest

from pipeline.arrays import Floats, Ints, unit_rows
from pipeline.labels.refinement import (
    METHODS,
    Fit,
    Method,
    Near,
    fit,
    generation,
    smooth,
    vote_together,
)
from pipeline.labels.scoring import score

N, D, W, K = 400, 12, 5, 10


def softmax(logs: list[float]) -> list[float]:
    weights = [math.exp(each - max(logs)) for each in logs]
    return [each / sum(weights) for each in weights]


def clusters(seed: int = 0) -> tuple[Floats, Floats, Ints]:
    """Return images (N, D) around W centres, texts (W, D) beside these, and the true classes."""
    made = np.random.default_rng(seed)
    centres = unit_rows(made.normal(size=(W, D)))
    true = made.integers(0, W, N)
    images = unit_rows(centres[true] + 0.25 * made.normal(size=(N, D)))
    return images, unit_rows(centres + 0.25 * made.normal(size=(W, D))), true


def nearest(images: Floats) -> tuple[Ints, Floats, list[list[bool]]]:
    """Return the K nearest others of each image, their cosines, and which are mutual."""
    cosines = images @ images.T
    np.fill_diagonal(cosines, -np.inf)
    rows = np.argsort(-cosines, axis=1)[:, :K]
    mutual = [[i in rows[j] for j in rows[i]] for i in range(len(images))]
    return rows, np.take_along_axis(cosines, rows, axis=1), mutual


def near_of(images: Floats, probabilities: Floats) -> Near:
    rows, cosines, mutual = nearest(images)
    return Near(probabilities[rows], cosines, np.array(mutual))


def slow(method: Method, probabilities: Floats, images: Floats) -> list[list[float]]:
    """Restate `neighbours` (S5), `-strong` (S1) and `-sure`, before confidence is matched."""
    p = probabilities.astype(np.float64)
    offset = [0.0] * W
    if method == "neighbours":
        mean = [sum(p[i][c] for i in range(N)) / N for c in range(W)]
        r = min(1.0, math.exp(-sum(m * math.log(m) for m in mean)) / W)
        lead = [sum(math.log(p[i][c]) for i in range(N)) / N for c in range(W)]
        offset = [0.5 * r**3 * (each - sum(lead) / W) for each in lead]
    prior = [softmax([math.log(p[i][c]) - offset[c] for c in range(W)]) for i in range(N)]
    rows, cosines, mutual = nearest(images)
    refined = []
    for i in range(N):
        weights = softmax([float(cosine) / 0.05 for cosine in cosines[i]])
        share = {"neighbours": 0.5 * math.sqrt(sum(mutual[i]) / K), "neighbours-sure": 0.7}
        theirs = share.get(method, 0.5)
        votes = [
            (1 - theirs) * prior[i][c]
            + theirs * sum(w * prior[j][c] for w, j in zip(weights, rows[i], strict=True))
            for c in range(W)
        ]
        if method == "neighbours-sure":
            votes[prior[i].index(max(prior[i]))] *= 2
        refined.append([vote / sum(votes) for vote in votes])
    return refined


@pytest.mark.parametrize("method", ["neighbours", "neighbours-strong", "neighbours-sure"])
def test_neighbours_vote_as_the_formula_says(method: Method) -> None:
    images, texts, true = clusters()
    naive = score(images, texts, scale=10.0).classes
    near = near_of(images, naive)
    found = fit(method, naive, images, texts, near)
    refined = vote_together(method, found, naive, images, near)
    power = found.power
    wanted = [softmax([power * math.log(p) for p in row]) for row in slow(method, naive, images)]
    assert refined == pytest.approx(np.array(wanted), abs=1e-5)
    assert refined.max(axis=1).mean() == pytest.approx(naive.max(axis=1).mean(), abs=1e-5)
    assert not np.array_equal(refined.argmax(axis=1), naive.argmax(axis=1))
    assert (refined.argmax(axis=1) == true).mean() > (naive.argmax(axis=1) == true).mean()


def test_damping_is_weak_where_few_of_the_classes_are_there() -> None:
    images, texts, true = clusters()
    naive = score(images, texts, scale=10.0).classes
    everything = fit("neighbours", naive, images, texts, near_of(images, naive)).log_offset
    one = true == 0
    near = near_of(images[one], naive[one])
    alone = fit("neighbours", naive[one], images[one], texts, near).log_offset
    mean = naive[one].mean(axis=0)
    r = float(np.exp(-(mean * np.log(mean)).sum())) / W
    logs = np.log(naive[one]).mean(axis=0)
    assert r < 0.9
    assert alone == pytest.approx(0.5 * r**3 * (logs - logs.mean()), rel=1e-4)
    assert everything.sum() == pytest.approx(0, abs=1e-5)


def slow_gaussians(p: Floats, images: Floats, texts: Floats) -> list[list[float]]:
    """Restate `anchored`, before confidence is matched: EM with loops over classes and pixels."""
    x, t = images.astype(np.float64), texts.astype(np.float64)
    centre, middle = x.mean(axis=0), t.mean(axis=0)
    share, logs = p.astype(np.float64), np.log(p.astype(np.float64))
    for _ in range(10):
        n = [float(share[:, c].sum()) for c in range(W)]
        means = [(share[:, c, None] * x).sum(axis=0) / n[c] for c in range(W)]
        top = sum(n[c] * (means[c] - centre) @ (t[c] - middle) for c in range(W))
        reach = top / sum(n[c] * (t[c] - middle) @ (t[c] - middle) for c in range(W))
        mu = [
            (n[c] * means[c] + 10 * (centre + reach * (t[c] - middle))) / (n[c] + 10)
            for c in range(W)
        ]
        variance = sum((share[:, c, None] * (x - mu[c]) ** 2).sum(axis=0) for c in range(W)) / N
        share = np.array(
            [
                softmax(
                    [logs[i, c] - ((x[i] - mu[c]) ** 2 / variance).sum() / 100 for c in range(W)]
                )
                for i in range(N)
            ]
        )
    rows: list[list[float]] = share.tolist()
    return rows


def test_anchored_gaussians_are_those_of_plain_em() -> None:
    images, texts, _ = clusters()
    naive = score(images, texts, scale=10.0).classes
    found = fit("anchored", naive, images, texts, None)
    refined = vote_together("anchored", found, naive, images, None)
    wanted = [
        softmax([found.power * math.log(p) for p in row])
        for row in slow_gaussians(naive, images, texts)
    ]
    assert refined == pytest.approx(np.array(wanted), abs=1e-4)


def test_a_class_nobody_shows_stays_at_its_text() -> None:
    images, texts, true = clusters()
    there = true != 3
    naive = score(images[there], texts, scale=30.0).classes
    found = fit("anchored", naive, images[there], texts, None)
    refined = vote_together("anchored", found, naive, images[there], None)
    before = (naive.argmax(axis=1) == true[there]).mean()
    assert (refined.argmax(axis=1) == true[there]).mean() >= before


def test_given_shares_are_met_as_by_sinkhorn() -> None:
    images, texts, _ = clusters()
    naive = score(images, texts, scale=10.0).classes
    shares = [0.4, 0.3, 0.15, 0.1, 0.05]
    scaled = naive.astype(np.float64)
    for _ in range(2000):  # columns to their shares, rows to 1, in turn
        scaled *= np.array(shares) * N / scaled.sum(axis=0)
        scaled /= scaled.sum(axis=1, keepdims=True)
    near = near_of(images, naive)
    found = fit("neighbours-strong", naive, images, texts, near, shares)
    assert found.prior(naive, images) == pytest.approx(scaled, abs=2e-3)
    assert found.prior(naive, images).mean(axis=0) == pytest.approx(np.array(shares), rel=2e-3)


def test_reject_prompts_keep_what_falls_to_them() -> None:
    images, texts, _ = clusters()
    naive = score(images, texts, scale=10.0).classes  # the last column is a reject prompt now
    shares = [0.4, 0.3, 0.2, 0.1]
    near = near_of(images, naive)
    prior = fit("neighbours", naive, images, texts, near, shares).prior(naive, images)
    mean = prior.mean(axis=0)
    assert mean[:4] / mean[:4].sum() == pytest.approx(np.array(shares), rel=3e-3)
    assert 0.02 < mean[4] < 0.5


def test_two_images_worked_by_hand() -> None:
    # One neighbour each; the second has none at all, and keeps what it had.
    own = np.array([[0.8, 0.2], [0.4, 0.6]], np.float32)
    theirs = np.array([[[0.2, 0.8]], [[0.9, 0.1]]], np.float32)
    cosines = np.array([[0.9], [-np.inf]], np.float32)
    near = Near(theirs, cosines, np.array([[True], [False]]))
    assert smooth("neighbours", own, theirs, near) == pytest.approx(
        np.array([[0.5, 0.5], [0.4, 0.6]])
    )
    unloved = Near(theirs, cosines, np.array([[False], [False]]))
    assert smooth("neighbours", own, theirs, unloved) == pytest.approx(own)
    assert smooth("neighbours-strong", own, theirs, unloved)[0].tolist() == pytest.approx(
        [0.5, 0.5]
    )


def test_a_label_gives_way_to_twice_its_votes_and_to_no_fewer() -> None:
    # Votes are 0.3 of the image's own and 0.7 of its only neighbour's: 0.372 to 0.628 in the first
    # row, which is less than twice as much, and 0.302 to 0.698 in the second.
    own = np.array([[0.9, 0.1], [0.9, 0.1]], np.float32)
    theirs = np.array([[[0.145714, 0.854286]], [[0.045714, 0.954286]]], np.float32)
    near = Near(theirs, np.full((2, 1), 0.9, np.float32), np.zeros((2, 1), np.bool_))
    as_they_are = Fit(np.zeros(2, np.float32), linear=None, power=1.0)
    images = np.zeros((2, D), np.float32)
    refined = vote_together("neighbours-sure", as_they_are, own, images, near)
    kept, given = 2 * 0.372 / (2 * 0.372 + 0.628), 2 * 0.302 / (2 * 0.302 + 0.698)
    assert kept > 0.5 > given
    assert refined[:, 0] == pytest.approx(np.array([kept, given]), abs=1e-5)


@pytest.mark.parametrize("width", [1, 2, 1000])
@pytest.mark.parametrize("method", METHODS)
def test_any_number_of_classes_gives_finite_probabilities(method: Method, width: int) -> None:
    made = np.random.default_rng(width)
    images, texts = unit_rows(made.normal(size=(50, D))), unit_rows(made.normal(size=(width, D)))
    logits = 100 * images @ texts.T  # so far apart that many probabilities are 0
    naive = np.exp(logits - logits.max(axis=1, keepdims=True))
    naive /= naive.sum(axis=1, keepdims=True)
    near = near_of(images, naive)
    refined = vote_together(method, fit(method, naive, images, texts, near), naive, images, near)
    assert np.isfinite(refined).all()
    assert refined.sum(axis=1) == pytest.approx(np.ones(50), abs=1e-5)


def test_a_generation_is_a_doubling() -> None:
    sizes = [0, 299, 300, 599, 600, 1_199, 1_200, 300 * 2**20]
    assert [generation(size) for size in sizes] == [0, 0, 1, 1, 2, 2, 3, 21]
