"""Samples: every image as likely as any other, in proportion, and the same for the same seed."""

import numpy as np
import pytest

from pipeline.labels.sampling import cohorts, draw, equally_likely, weigh


def population(n: int) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(n)
    return chance.random(n).astype(np.float32), chance.integers(0, 5, n)


@pytest.mark.parametrize(("images", "size"), [(37, 20), (200, 50), (1003, 200)])
def test_every_image_is_as_likely_as_any_other(images: int, size: int) -> None:
    scores, classes = population(images)
    drawn = np.zeros(images)
    for seed in range(600):
        sample = draw(scores, classes, size, seed)
        assert len(set(sample.rows.tolist())) == size
        assert sample.weight.sum() == images
        drawn[sample.rows] += 1
    share = size / images
    spread = np.sqrt(share * (1 - share) / 600)
    assert np.abs(drawn / 600 - share).max() < 5 * spread


def test_scores_and_classes_come_in_proportion() -> None:
    scores, classes = population(10_000)
    sample = draw(scores, classes, 200, 0)
    assert np.bincount(sample.stratum).tolist() == [10] * 20
    top = np.argsort(-scores)[:500]  # the first band: a twentieth of the images
    assert set(sample.rows[sample.stratum == 0].tolist()) <= set(top.tolist())
    share = np.bincount(classes[sample.rows]) / 200 - np.bincount(classes) / 10_000
    assert np.abs(share).max() < 0.06


def test_the_seed_decides_and_the_order_tells_nothing() -> None:
    scores, classes = population(1000)
    once, again, other = (draw(scores, classes, 100, seed) for seed in (1, 1, 2))
    assert once.rows.tolist() == again.rows.tolist() != other.rows.tolist()
    first = np.mean([draw(scores, classes, 100, s).stratum[:10].mean() for s in range(100)])
    assert first == pytest.approx(9.5, abs=0.6)  # the beginning holds every band


def test_a_cohort_stands_for_its_own_images_and_none_for_those_nobody_was_asked_about() -> None:
    # Seen at 1, 3 and 9; rounds were drawn at 2 and 3: the second could draw what it saw come.
    cohort = cohorts(np.array([1, 3, 9, 1]), np.array([2, 3]))
    assert cohort.tolist() == [0, 1, 2, 0]
    assert weigh(cohort, np.array([True, True, False, False])).tolist() == [2, 1, 0, 2]


def test_thinning_makes_a_plain_sample_of_an_uneven_one() -> None:
    ids = [f"{n:032x}" for n in range(4000)]
    weights = np.where(np.arange(4000) < 2000, 1.0, 4.0)  # the first were drawn four times as often
    kept = equally_likely(ids, weights)
    assert kept[2000:].all()
    assert kept[:2000].sum() == pytest.approx(500, abs=60)
    assert equally_likely(ids, np.ones(4000)).all()
    assert equally_likely([], np.ones(0)).tolist() == []


def test_classes_vary_less_than_by_chance() -> None:
    scores, classes = population(10_000)
    counts = [(classes[draw(scores, classes, 200, s).rows] == 0).sum() for s in range(60)]
    assert np.var(counts) < 200 * 0.2 * 0.8 / 2
