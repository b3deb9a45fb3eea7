"""Certify: answers in a random sample in; what they prove of all images, or how many more it takes.

Bounds are exact and one-sided (Clopper and Pearson 1934; for few images the hypergeometric ones).
They are made for simple random samples. Ours takes one image from each of many intervals that hold
the same number of images (`sampling`): then the number of errors is a sum of independent events of
unequal chances, whose lower tail is never above the binomial one of the same mean (Hoeffding 1956),
so that what is certified holds all the more. `tests/benchmarks/audit_quality.py` counts that.

Shapes: n answers, N images, T thresholds.
"""

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from scipy.stats import beta, binom, hypergeom

from pipeline.arrays import Bools, Doubles, Floats, Ints
from pipeline.labels.calibration import CLIP

LEVEL = 0.95  # the probability with which what is certified is true
STEPS = 20  # thresholds: one for each twentieth of the images
_SPARE = 1  # errors that the first region tested could hold and still be certified
_MANY = 50  # images for each answer: so many that drawing with or without putting back is the same
_TILL = 100_000  # answers that it makes sense to ask for


@dataclass(frozen=True)
class Accuracy:
    """The share of top labels that are right, with its two-sided 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Certificate:
    """The largest region whose precision is certified at a target; or none, and what it takes."""

    target: float
    threshold: float | None  # certified: the images of at least this score; None: none is
    coverage: float  # their share of the images
    answers: int  # in the region
    errors: int  # among them
    proven: float | None  # the precision is at least this, with 95 % confidence
    more: int | None  # answers to be added before anything is likely to be certified; None: no way


def lower_bound(right: float, answers: float, images: int, level: float = LEVEL) -> float:
    """Return a share that the true one reaches with a confidence of `level`, one-sided.

    Args:
        right: answers with the property; a fraction (of weighted ones) is rounded down.
        answers: in all; a fraction is rounded down.
        images: that they were drawn from, without putting back.
        level: 0 to 1.
    """
    n = floor(answers + 1e-9)
    k = min(n, floor(right + 1e-9))
    if k <= 0:
        return 0.0
    if images > _MANY * n:
        return float(beta.ppf(1 - level, k, n - k + 1))
    # The fewest images with the property of which k or more in a sample are no wonder.
    low, high = k, max(k, images - (n - k))
    while low < high:
        middle = (low + high) // 2
        if hypergeom.sf(k - 1, images, middle, n) > 1 - level:
            high = middle
        else:
            low = middle + 1
    return low / images


def accuracy(right: Bools, weights: Doubles, images: int) -> Accuracy:
    """Estimate a share from a random sample, with its exact two-sided 95 % interval.

    Answers of unequal weight count as the fewer that Kish (1965) makes of them, (sum w)^2 / sum
    w^2. That the sample is stratified makes the interval only wider than it need be.

    Args:
        right: (n,), n at least 1.
        weights: (n,) above 0: how many images an answer stands for.
        images: N, that they were drawn from.
    """
    share = float(np.average(right, weights=weights))
    answers = float(weights.sum() ** 2 / (weights**2).sum())
    one_sided = 1 - (1 - LEVEL) / 2
    high = 1 - lower_bound((1 - share) * answers, answers, images, one_sided)
    return Accuracy(share, lower_bound(share * answers, answers, images, one_sided), high)


def thresholds(scores: Floats) -> Floats:
    """Return the thresholds (T,) to be tried, falling: one for each twentieth of the images.

    They are chosen by the scores alone, before any answer is looked at. None is nearer to 1 than
    CLIP, for the calibration does not tell such scores apart.

    Args:
        scores: (N,) of all images, N at least 1.
    """
    falling = np.sort(scores)[::-1]
    ranks = np.ceil(np.arange(1, STEPS + 1) * len(scores) / STEPS).astype(np.int64) - 1
    tried: Floats = np.unique(np.minimum(falling[ranks], np.float32(1 - CLIP)))[::-1]
    return tried


def certify(scores: Floats, right: Bools, images: Floats, target: float) -> Certificate:
    """Find the largest region "score at least t" whose precision is at least `target`.

    Fixed-sequence testing (Maurer et al. 1995; for thresholds: Angelopoulos et al. 2021): regions
    are tested from the smallest on, each at the full level, up to the first that fails. The first
    is the smallest that could be certified with an error to spare, which depends on how many
    answers lie in it and not on what they say. So the chance that a certified region falls short
    of the target stays at 5 % however many thresholds are tried.

    Args:
        scores: (n,) of the answered images, drawn at random.
        right: (n,) whether their top label was right.
        images: (N,) scores of all images that were drawn from.
        target: the precision wanted, above 0 and below 1.
    """
    tried = thresholds(images)
    inside = np.array([int((scores >= t).sum()) for t in tried], np.int64)
    wrong = np.array([int((~right[scores >= t]).sum()) for t in tried], np.int64)
    sizes = np.array([int((images >= t).sum()) for t in tried], np.int64)
    best = proven = None
    for at in range(_first(inside, sizes, target), len(tried)):
        bound = lower_bound(inside[at] - wrong[at], inside[at], int(sizes[at]))
        if bound < target:
            break
        best, proven = at, bound
    if best is None:
        left = len(images) - len(scores)  # when all are answered, all is known
        missing = _more(inside, wrong, sizes, target, len(scores))
        more = min(missing, left) if missing and left > 0 else None
        return Certificate(target, None, 0.0, 0, 0, None, more)
    return Certificate(
        target=target,
        threshold=float(tried[best]),
        coverage=float(sizes[best] / len(images)),
        answers=int(inside[best]),
        errors=int(wrong[best]),
        proven=proven,
        more=None,
    )


def answers_needed(target: float, errors: int) -> int:
    """Return how many answers with so many errors certify a precision.

    >>> answers_needed(0.95, 0), answers_needed(0.99, 0), answers_needed(0.95, 1)
    (59, 299, 93)
    """
    low, high = errors + 1, _TILL * 100
    while low < high:
        middle = (low + high) // 2
        if binom.cdf(errors, middle, 1 - target) <= 1 - LEVEL:
            high = middle
        else:
            low = middle + 1
    return low


def _first(inside: Ints, sizes: Ints, target: float) -> int:
    """Return the first region to be tested; T when none could be certified whatever is answered."""
    for spare in range(_SPARE, -1, -1):
        for at, (n, images) in enumerate(zip(inside.tolist(), sizes.tolist(), strict=True)):
            if n > spare and lower_bound(n - spare, n, images) >= target:
                return at
    return len(inside)


def _more(inside: Ints, wrong: Ints, sizes: Ints, target: float, answers: int) -> int | None:
    """Estimate how many answers are missing: where the region that needs fewest is as good as seen.

    The share of wrong answers is taken as (errors + 1/2) / (answers + 1), for a few perfect answers
    are no perfect region; and never less is asked for than perfect answers would take.
    """
    asked: list[float] = []
    tried = (inside.tolist(), wrong.tolist(), sizes.tolist())
    for n, errors, images in zip(*tried, strict=True):
        share = images / sizes[-1]
        failing = (errors + 0.5) / (n + 1)
        if failing < 1 - target:
            asked.append(_answers_with(target, float(failing)) / share)
    if not asked or min(asked) > _TILL:
        return None
    perfect = answers_needed(target, 0)
    return max(1, ceil(min(asked)) - answers, perfect - answers)


def _answers_with(target: float, failing: float) -> int:
    """Return how many answers certify a precision where this share of them is wrong."""
    low, high = 1, _TILL
    while low < high:
        middle = (low + high) // 2
        if binom.cdf(ceil(failing * middle), middle, 1 - target) <= 1 - LEVEL:
            high = middle
        else:
            low = middle + 1
    return low
