"""What confidence is worth: risk, coverage and calibration of "the label is right".

Images of equal confidence are taken together everywhere, so that the order of rows never matters.
Shapes: n images, T distinct confidences.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Bools, Doubles, Ints

BINS = 15
MOST_POINTS = 1000  # of a curve that is written out; numbers are read off the whole one
Confidence = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Ranking:
    """Images by confidence, surest first; row t tells of those at or above the t-th confidence."""

    confidence: Doubles  # (T,) distinct, falling
    images: Ints  # (T,) how many are at or above it
    right: Ints  # (T,) how many of those are right


@dataclass(frozen=True)
class Point:
    """The labels at or above one confidence."""

    confidence: float
    coverage: float  # their share of all images
    accuracy: float


@dataclass(frozen=True)
class Reach:
    """The most images whose labels are this precise; known only in hindsight, with the truth."""

    precision: float
    coverage: float  # share of all images; 0: no threshold reaches it
    threshold: float | None  # labels at or above it


@dataclass(frozen=True)
class Bin:
    """Images of neighbouring confidence; those of equal confidence may be shared by two bins."""

    images: float  # n / bins
    lowest: float
    highest: float
    confidence: float  # mean
    accuracy: float


def rank(confidence: Confidence, right: Bools) -> Ranking:
    """Sort n images by confidence.

    Args:
        confidence: (n,), not NaN.
        right: (n,) whether the label is the true one.
    """
    if not len(confidence):
        return Ranking(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
    order = np.argsort(-confidence, kind="stable")
    falling = confidence[order].astype(np.float64)
    last = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(falling) - 1)
    return Ranking(falling[last], last + 1, np.cumsum(right[order], dtype=np.int64)[last])


def aurc(ranking: Ranking) -> float | None:
    """Return the area under the risk-coverage curve: 0 is best; None: there is no image.

    Geifman, Uziel and El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers"
    (ICLR 2019): the mean, over k = 1 ... n, of the share of errors among the k surest images. Among
    images of equal confidence it is the mean over all orders they could be in. Here the first, the
    second and the third bring (0 + 1/2 + 1/3) / 3:

    >>> round(aurc(rank(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]))), 4)
    0.2778
    """
    if not len(ranking.images):
        return None
    taken = np.arange(1, ranking.images[-1] + 1)
    # The first j of m tied images with w errors hold j * w / m of them on average: a straight line.
    corners = np.concatenate([[0], ranking.images])
    errors = np.interp(taken, corners, np.concatenate([[0], ranking.images - ranking.right]))
    return float((errors / taken).mean())


def reach(ranking: Ranking, precision: float, *, images: int) -> Reach:
    """Find the lowest confidence whose labels are still this precise.

    Args:
        ranking: of the labelled images.
        precision: share of right labels, 0 to 1.
        images: how many there are, labelled or not: what coverage is a share of.
    """
    fits = np.flatnonzero(ranking.right / np.maximum(ranking.images, 1) >= precision)
    if not len(fits):
        return Reach(precision, 0.0, None)
    at = fits[-1]
    return Reach(precision, float(ranking.images[at] / images), float(ranking.confidence[at]))


def points(ranking: Ranking, *, images: int, keep: Sequence[float] = ()) -> list[Point]:
    """Return the accuracy at every distinct confidence; of very many, evenly spread ones.

    Args:
        ranking: of the labelled images.
        images: how many there are, labelled or not.
        keep: confidences among them to be kept in any case.
    """
    chosen = np.arange(len(ranking.images))
    if len(chosen) > MOST_POINTS:
        spread = np.linspace(ranking.images[0], ranking.images[-1], MOST_POINTS)
        kept = np.flatnonzero(np.isin(ranking.confidence, np.asarray(keep)))
        chosen = np.union1d(np.searchsorted(ranking.images, spread), kept)
    columns = (
        ranking.confidence[chosen].tolist(),
        (ranking.images[chosen] / images).tolist(),
        (ranking.right[chosen] / ranking.images[chosen]).tolist(),
    )
    return [Point(*row) for row in zip(*columns, strict=True)]


def reliability(confidence: Confidence, right: Bools, bins: int = BINS) -> list[Bin]:
    """Compare confidence with accuracy in bins of equal mass, lowest confidence first.

    Where a bin ends among images of equal confidence, each bin gets its share of them, right ones
    and wrong ones alike; so every bin holds n / bins images, which need be no whole number.

    Args:
        confidence: (n,), not NaN; n is at least 1.
        right: (n,) whether the label is the true one.
        bins: how many at most; never more than n.
    """
    ranking = rank(confidence, right)
    total = int(ranking.images[-1])
    bins = min(bins, total)
    edges = np.arange(bins + 1) * total / bins  # from the surest image on
    corners = np.concatenate([[0], ranking.images])
    of_group = np.diff(corners)
    sums = np.concatenate([[0], np.cumsum(of_group * ranking.confidence)])
    means = np.diff(np.interp(edges, corners, sums)) * bins / total
    shares = np.diff(np.interp(edges, corners, np.concatenate([[0], ranking.right])))
    first = np.searchsorted(ranking.images, edges[:-1], side="right")
    last = np.searchsorted(ranking.images, edges[1:], side="left")
    return [
        Bin(
            images=total / bins,
            lowest=float(ranking.confidence[last[at]]),
            highest=float(ranking.confidence[first[at]]),
            confidence=float(means[at]),
            accuracy=float(shares[at] * bins / total),
        )
        for at in reversed(range(bins))
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error: mean of |accuracy - confidence| over the images.

    Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"
    (AAAI 2015); bins of equal mass as in Nguyen and O'Connor (EMNLP 2015).
    """
    gaps = [entry.images * abs(entry.accuracy - entry.confidence) for entry in bins]
    return sum(gaps) / sum(entry.images for entry in bins)


def brier(confidence: Confidence, right: Bools) -> float:
    """Return the mean squared distance of confidence (n,) from "right" as 1 and "wrong" as 0."""
    return float(np.mean((confidence.astype(np.float64) - right) ** 2))
