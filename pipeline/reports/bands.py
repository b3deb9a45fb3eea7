"""Does agreement with neighbours predict being right? Beside it: does confidence?

Both are asked of the same images: those with a label, a truth, and neighbours with labels.
Shapes: n images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from pipeline.arrays import Bools, Ints

EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
Values = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Band:
    """The images whose agreement, or confidence, lies in one band; the last holds its end, too."""

    lowest: float
    highest: float
    images: int
    accuracy: float | None  # null: there is no image


@dataclass(frozen=True)
class ClassBeside:
    """The images that were given one label."""

    label: str
    images: int
    agreement: float  # mean
    accuracy: float


@dataclass(frozen=True)
class AgreementTold:
    """What agreement tells of being right, beside what confidence tells."""

    images: int
    by_agreement: list[Band]  # lowest first
    by_confidence: list[Band]
    agreement_tells: float | None  # AUROC: how often a right label agrees more than a wrong one
    confidence_tells: float | None  # the same of confidence; null: all are right, or all wrong
    per_class: list[ClassBeside]  # in the order of the classes; only those that were given


def told_by_agreement(
    agreement: Values, confidence: Values, label: Ints, right: Bools, *, classes: Sequence[str]
) -> AgreementTold:
    """Compare agreement and confidence with the truth.

    Args:
        agreement: (n,) 0 to 1; n is at least 1.
        confidence: (n,) 0 to 1.
        label: (n,) the index of the label given.
        right: (n,) whether it is the true one.
        classes: the labels there are.

    Raises:
        ValueError: a number is not between 0 and 1 (NaN included).
    """
    for name, values in (("agreement", agreement), ("confidence", confidence)):
        if not ((values >= 0) & (values <= 1)).all():  # not `< 0`, which lets NaN through
            raise ValueError(f"{name} is not between 0 and 1")
    return AgreementTold(
        images=len(right),
        by_agreement=bands(agreement, right),
        by_confidence=bands(confidence, right),
        agreement_tells=tells_apart(agreement, right),
        confidence_tells=tells_apart(confidence, right),
        per_class=_per_class(agreement, label, right, classes),
    )


def bands(values: Values, right: Bools) -> list[Band]:
    """Return how many of the images (n,) in each band are right, the lowest band first.

    >>> [
    ...     (band.images, band.accuracy)
    ...     for band in bands(np.array([0.1, 0.2, 1.0]), np.array([False, True, True]))
    ... ]
    [(1, 0.0), (1, 1.0), (0, None), (0, None), (1, 1.0)]
    """
    # In single precision, as confidences are stored: 0.2 there is a little more than 0.2 here.
    inner = np.asarray(EDGES[1:-1], np.float32)
    place = np.searchsorted(inner, values.astype(np.float32), side="right")
    images = np.bincount(place, minlength=len(EDGES) - 1)
    hits = np.bincount(place[right], minlength=len(EDGES) - 1)
    return [
        Band(EDGES[at], EDGES[at + 1], int(n), int(hits[at]) / int(n) if n else None)
        for at, n in enumerate(images)
    ]


def tells_apart(values: Values, right: Bools) -> float | None:
    """Return how often a right image has the larger value of a right and a wrong one.

    The area under the ROC curve, from the rank sum (Mann and Whitney, 1947); a tie counts half.
    None: there are not both.

    >>> tells_apart(np.array([0.9, 0.5, 0.5]), np.array([True, True, False]))
    0.75
    """
    good, bad = int(right.sum()), int((~right).sum())
    if not good or not bad:
        return None
    above = float(rankdata(values)[right].sum()) - good * (good + 1) / 2
    return above / (good * bad)


def _per_class(
    agreement: Values, label: Ints, right: Bools, classes: Sequence[str]
) -> list[ClassBeside]:
    size = len(classes)
    images = np.bincount(label, minlength=size)
    agreed = np.bincount(label, agreement, size) / np.maximum(images, 1)
    hits = np.bincount(label[right], minlength=size) / np.maximum(images, 1)
    return [
        ClassBeside(classes[at], int(images[at]), float(agreed[at]), float(hits[at]))
        for at in np.flatnonzero(images).tolist()
    ]
