"""Sampling: which images to ask a person about, and how many images each answer stands for.

Images are sorted by score into bands, in each by class, and within a class at random. Then they are
cut into as many intervals as answers are wanted, all of the same length, and one image is drawn
from each. So every image is as likely to be drawn as any other, and scores and classes come in
their right proportions. Shapes: N images, n drawn.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Bools, Doubles, Floats, Ints

BANDS = 20
_BAND_ANSWERS = 5  # at least, on average


@dataclass(frozen=True)
class Drawn:
    """A sample, in random order: whoever answers only its beginning has answered a random part."""

    rows: Ints  # (n,) of the images
    stratum: Ints  # (n,) band of the score, 0: the highest
    weight: Doubles  # (n,) images that the drawn one stands for; their sum is N


def draw(scores: Floats, classes: Ints, size: int, seed: int) -> Drawn:
    """Draw a random sample, stratified by score and predicted class.

    Args:
        scores: (N,) of the top labels.
        classes: (N,) index of the top label.
        size: n, above 0; all images where there are fewer.
        seed: the same seed draws the same images.

    >>> drawn = draw(np.array([0.9, 0.8, 0.2], np.float32), np.zeros(3, np.int64), 5, seed=0)
    >>> sorted(drawn.rows.tolist()), drawn.weight.tolist()
    ([0, 1, 2], [1.0, 1.0, 1.0])
    """
    total, chance = len(scores), np.random.default_rng(seed)
    size = min(size, total)
    bands = max(1, min(BANDS, size // _BAND_ANSWERS))
    mixed = chance.random(total)
    by_score = np.lexsort((mixed, -scores))  # equal scores in random order
    band = np.empty(total, np.int64)
    band[by_score] = np.arange(total) * bands // max(total, 1)
    order = np.lexsort((mixed, classes, band))
    # A random start, so that no place in the order is favoured where lengths differ by one.
    start = chance.random()
    edges = np.floor(np.arange(size + 1) * total / max(size, 1) + start).astype(np.int64)
    edges = np.clip(edges, 0, total)
    edges[0], edges[-1] = 0, total
    lengths = np.diff(edges)
    within = np.floor(chance.random(size) * lengths).astype(np.int64)
    rows = order[edges[:-1] + within]
    shuffled = chance.permutation(size)
    return Drawn(rows[shuffled], band[rows][shuffled], lengths[shuffled].astype(np.float64))


def cohorts(seen: Ints, rounds: Ints) -> Ints:
    """Return how many rounds had been drawn before each image was first seen.

    Images of one cohort were all as likely to be drawn as one another; those seen after the last
    round could not be drawn at all.

    Args:
        seen: (N,) when each image was seen first, such as microseconds since 1970.
        rounds: when each round was drawn, rising.
    """
    found: Ints = np.searchsorted(rounds, seen, side="left").astype(np.int64)
    return found


def weigh(cohort: Ints, answered: Bools) -> Doubles:
    """Return how many images each stands for (N,): those of its cohort by the answered ones.

    0 where nobody was asked about a cohort.

    Args:
        cohort: (N,)
        answered: (N,)
    """
    images = np.bincount(cohort)
    asked = np.bincount(cohort[answered], minlength=len(images))
    with np.errstate(divide="ignore"):
        each = np.where(asked > 0, images / asked, 0.0)
    found: Doubles = each[cohort]
    return found


def equally_likely(ids: Sequence[str], weights: Doubles) -> Bools:
    """Return answers (n,) thinned until all stand for equally many images.

    Bounds for a plain random sample need that. A hash of the id decides, not chance and not the
    answer: the same answers are always kept, and more of them when others come to be.

    Args:
        ids: (n,) image ids.
        weights: (n,) above 0.
    """
    if not len(ids):
        return np.zeros(0, bool)
    fraction = [int(hashlib.sha256(f"thin:{i}".encode()).hexdigest()[:8], 16) for i in ids]
    kept: Bools = np.array(fraction) / 16**8 < weights / weights.max() * (1 + 1e-9)
    return kept
