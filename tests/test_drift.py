"""Drift against numbers worked out by hand, by other libraries and by slow loops."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import hypergeom

from pipeline.arrays import Floats, Ints
from pipeline.reports.drift import BARS, FALSE_ALARMS, Sample, compare
from pipeline.reports.permutations import (
    compare_means,
    compare_mixes,
    compare_vectors,
    js_divergence,
)

DRAWS = 999  # the fewest that can be sure enough


def ints(*values: int) -> Ints:
    return np.array(values, np.int64)


def unit(rows: npt.NDArray[Any]) -> Floats:
    found: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def images(count: int, rng: np.random.Generator, dimension: int = 8) -> Sample:
    """Draw images of one and the same world: 4 classes, and some without a label."""
    labels = rng.choice(5, count, p=[0.5, 0.25, 0.15, 0.05, 0.05])
    return Sample(
        labels=np.bincount(labels, minlength=5).astype(np.int64),
        confidence=rng.beta(5, 2, count).astype(np.float32),
        unknown=rng.normal(0.7, 0.1, count).astype(np.float32),
        vectors=unit(rng.normal([1.0] + [0.2] * (dimension - 1), 0.4, (count, dimension))).astype(
            np.float32
        ),
    )


def test_divergence_by_hand() -> None:
    # 3:1 against 1:3. The middle is 1:1, 1 bit; each side 2 - 0.75 * log2(3) = 0.8113 bits.
    assert js_divergence(ints(3, 1), ints(1, 3)) == pytest.approx(1 - (2 - 0.75 * np.log2(3)))
    assert js_divergence(ints(30, 10), ints(1, 3)) == pytest.approx(0.188722, abs=1e-6)
    assert js_divergence(ints(0, 7), ints(2, 0)) == 1.0
    assert js_divergence(ints(2, 4, 0), ints(1, 2, 0)) == 0.0


def test_divergence_is_scipys() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        ours, theirs = rng.integers(0, 9, (2, 7)) + np.eye(7, dtype=np.int64)[:2]
        assert js_divergence(ours, theirs) == pytest.approx(jensenshannon(ours, theirs, 2) ** 2)


def test_chance_of_a_mix_is_the_hypergeometric_one() -> None:
    """4 and 2 of one class among 6 and 9: every way to draw 6 of 15 is as likely."""
    ours, theirs = ints(4, 2), ints(2, 7)
    tested = compare_mixes(ours, theirs, 20_000, np.random.default_rng(0))
    ways = {n: hypergeom(15, 6, 6).pmf(n) for n in range(7)}
    far = {n: js_divergence(ints(n, 6 - n), ints(6 - n, 3 + n)) for n in ways}
    found = far[4]
    assert tested.found == pytest.approx(found)
    exact = sum(chance for n, chance in ways.items() if far[n] >= found - 1e-12)
    assert tested.p == pytest.approx(exact, abs=0.015)
    assert tested.expected == pytest.approx(sum(ways[n] * far[n] for n in ways), abs=0.005)


def test_means_differ_as_by_numpy() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = rng.beta(2, 2, 300).astype("f4"), rng.beta(3, 2, 500).astype("f4")
    tested = compare_means(ours, theirs, DRAWS, rng)
    assert tested.found == pytest.approx(ours.mean() - theirs.mean(), abs=0.005)  # by bins of 0.01
    spread = np.concatenate([ours, theirs]).std() * (1 / 300 + 1 / 500) ** 0.5
    assert tested.chance.std() == pytest.approx(spread, rel=0.15)
    assert tested.p == 1.0  # it asks whether ours are higher
    assert compare_means(theirs, ours, DRAWS, rng).p == pytest.approx(1 / (DRAWS + 1))


def test_vectors_differ_as_by_a_slow_loop() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = (images(n, rng).vectors for n in (12, 30))
    tested = compare_vectors(ours, theirs, 50, np.random.default_rng(0))
    middle, other = ours.mean(axis=0), theirs.mean(axis=0)
    assert tested.distance.found == pytest.approx(float(((middle - other) ** 2).sum()), rel=1e-4)
    assert tested.ours == pytest.approx(float(np.var(ours, axis=0, ddof=1).sum()), rel=1e-4)
    assert tested.theirs == pytest.approx(float(np.var(theirs, axis=0, ddof=1).sum()), rel=1e-4)
    # The draws, each by itself: who was drawn is told by the same generator.
    both, generator = np.concatenate([ours, theirs]), np.random.default_rng(0)
    masks = generator.permuted(np.tile(np.arange(42) < 12, (50, 1)).astype("f4"), axis=1) > 0
    slow = [((both[m].mean(axis=0) - both[~m].mean(axis=0)) ** 2).sum() for m in masks]
    assert tested.distance.chance == pytest.approx(np.array(slow), rel=1e-3)


def test_the_shift_of_few_images_is_not_overestimated() -> None:
    """Two worlds whose centres lie one spread apart: that is said of 10 images and of 1,000."""
    rng = np.random.default_rng(3)
    for count in (10, 1000):
        found = []
        for _ in range(40):
            ours, theirs = rng.normal(0, 1, (2, count, 64))
            theirs[:, 0] += 8  # the spread of 64 dimensions of variance 1
            long = np.full((count, 1), 1000.0)  # so that unit rows lie as on a plane
            rows = [unit(np.hstack([each, long])) for each in (ours, theirs)]
            found.append(compare_vectors(rows[0], rows[1], 1, rng).shift)
        assert np.mean(found) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("count", [10, 60])
def test_without_drift_there_are_no_more_alarms_than_promised(count: int) -> None:
    rng, alarms, unsure = np.random.default_rng(4), 0, 0
    for seed in range(40 if count == 10 else 25):
        found = compare(images(count, rng), images(100, rng), draws=DRAWS, seed=seed)
        alarms += found.verdict != "none"
        unsure += any(sign.p <= FALSE_ALARMS / len(BARS) for sign in found.signs)
    # Of 40 with a chance of 1 % each there are more than 3 in 1 of 1,400 such tests.
    assert alarms <= unsure <= 3


def test_p_is_as_likely_to_be_small_as_it_says() -> None:
    rng, found = np.random.default_rng(5), []
    for seed in range(100):
        signs = compare(images(15, rng), images(40, rng), draws=99, seed=seed).signs
        found.append([sign.p for sign in signs])
    shares = (np.array(found) <= 0.2).mean(axis=0)
    assert len(shares) == 5
    assert (shares <= 0.33).all()  # 0.2 and three standard errors
    assert shares.mean() >= 0.1  # nor is it only ever 1


@pytest.mark.parametrize(
    ("sign", "level"),
    [("labels", "strong"), ("strange", "strong"), ("confidence", "some"), ("content", "strong")],
)
def test_a_planted_drift_is_found_and_named(sign: str, level: str) -> None:
    rng = np.random.default_rng(6)
    drop, before = images(60, rng), images(400, rng)
    parts = dict(vars(drop))
    if sign == "labels":
        parts["labels"] = ints(0, 10, 40, 10, 0)
    if sign == "strange":
        parts["unknown"] = drop.unknown + np.where(np.arange(60) < 30, 0.5, 0).astype("f4")
    if sign == "confidence":
        parts["confidence"] = drop.confidence - 0.12
    if sign == "content":
        parts["vectors"] = unit(drop.vectors + np.eye(8, dtype=np.float32)[3])
    found = compare(Sample(**parts), before, draws=DRAWS)
    told = {one.name: one.level for one in found.signs if one.level != "none"}
    assert told.pop(sign) == level == found.verdict
    assert set(told) <= {"spread"}  # who moved may also lie closer together
    assert found.advice
    assert found.reason


def test_a_stuck_camera_shows_in_the_spread() -> None:
    rng = np.random.default_rng(7)
    before = images(400, rng)
    middle = unit(before.vectors.mean(axis=0, keepdims=True))
    same = np.repeat(middle, 60, axis=0).astype(np.float32)
    found = compare(Sample(**{**vars(images(60, rng)), "vectors": same}), before, draws=DRAWS)
    [spread] = [sign for sign in found.signs if sign.name == "spread"]
    assert spread.level == "strong"
    assert spread.now == pytest.approx(0, abs=1e-5)
    assert "more alike" in spread.words


def test_a_certain_change_too_small_to_matter_is_none() -> None:
    mix = ints(5500, 4500, 0), ints(50_000, 47_000, 0)
    rng = np.random.default_rng(8)
    many = images(10_000, rng), images(97_000, rng)
    drop, before = (
        Sample(labels, each.confidence, each.unknown, each.vectors[:50])
        for labels, each in zip(mix, many, strict=True)
    )
    found = compare(drop, before, draws=DRAWS)
    assert found.verdict == "none"
    assert found.signs[0].p == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("now", "before", "says"),
    [(0, 50, "no image"), (50, 0, "nothing came"), (9, 50, "9 new"), (50, 9, "too few")],
)
def test_of_too_few_nothing_is_said(now: int, before: int, says: str) -> None:
    rng = np.random.default_rng(9)
    found = compare(images(now, rng), images(before, rng))
    assert (found.verdict, found.signs) == ("not known", [])
    assert says in found.reason


def test_alike_to_the_last_bit_is_no_drift() -> None:
    rng = np.random.default_rng(10)
    one = images(1, rng)
    parts = (np.repeat(each, 30, axis=0) for each in (one.confidence, one.unknown, one.vectors))
    same = Sample(one.labels * 30, *parts)
    assert compare(same, same, draws=DRAWS).verdict == "none"
