"""Metrics of labels against a truth: class indices in, numbers out; no file is touched.

Shapes: N images, C classes, K labels kept of each image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Bools, Doubles, Ints
from pipeline.reports.curves import (
    Bin,
    Point,
    Reach,
    aurc,
    brier,
    calibration_error,
    points,
    rank,
    reach,
    reliability,
)

PRECISIONS = (0.90, 0.95, 0.99)  # whose coverage is told
NONE = -1  # the index of a class that is none of the label set, and of a label not kept


@dataclass(frozen=True)
class ClassMetrics:
    """How one class did; shares from 0 to 1."""

    label: str
    images: int  # that truly are of this class
    recall: float | None  # null: the truth has none
    precision: float | None  # null: nothing was given this label


@dataclass(frozen=True)
class Metrics:
    """How a labelling did against a truth; shares from 0 to 1.

    What tells of the top label (accuracy, recall, precision, Brier score, calibration) tells of
    every image, abstained or not; what tells of the labels given (coverage, AURC), of the others.
    """

    images: int
    labelled: int  # not abstained
    accuracy: float  # of the top label
    top_k: int  # labels kept of each image
    top_k_accuracy: float  # the true label is among those kept
    macro_recall: float | None  # mean over the classes that the truth has; null: it has none
    worst_recall: float | None  # the lowest of them
    worst_class: str | None  # whose it is; of several the one with most images
    threshold: float
    coverage: float  # share of images labelled with at least this confidence
    accuracy_above: float | None  # of those; null: there are none
    coverage_at: list[Reach]  # the most images that can be had at a precision
    aurc: float | None  # area under the risk-coverage curve; null: nothing is labelled
    ece: float  # expected calibration error, bins of equal mass
    brier: float  # of "the top label is right"
    per_class: list[ClassMetrics]


@dataclass(frozen=True)
class Measured:
    """Metrics, and the curves that some of them are read off."""

    metrics: Metrics
    curve: list[Point]  # accuracy and coverage of the labels at and above a confidence
    bins: list[Bin]  # lowest confidence first


def measure(
    true: Ints,
    ranked: Ints,
    confidence: npt.NDArray[np.floating],
    labelled: Bools,
    *,
    classes: Sequence[str],
    threshold: float,
) -> Measured:
    """Compare labels with the truth; element i of every argument belongs to image i.

    Args:
        true: (N,) index of the true class, or NONE.
        ranked: (N, K) indices of the labels kept, likeliest first; NONE where there are fewer.
        confidence: (N,) of the likeliest, 0 to 1.
        labelled: (N,) whether the image has a label, rather than having been abstained on.
        classes: the C labels there are, in the order to report.
        threshold: coverage counts labelled images of at least this confidence.

    Raises:
        ValueError: there is no image, lengths differ, an index or a confidence is out of range
            (NaN included).

    >>> true, ranked = np.array([0, 1]), np.array([[0], [0]])
    >>> told = measure(
    ...     true, ranked, np.array([0.9, 0.4]), true >= 0, classes="ab", threshold=0.5
    ... )
    >>> told.metrics.accuracy, told.metrics.worst_class, told.metrics.coverage
    (0.5, 'b', 0.5)
    """
    _require_sound(true, ranked, confidence, labelled, len(classes))
    right = (ranked[:, 0] == true) & (true >= 0)
    # In single precision, as confidences are stored: 0.7 there is a little less than 0.7 here.
    above = labelled & (confidence.astype(np.float32) >= np.float32(threshold))
    ranking = rank(confidence[labelled], right[labelled])
    bins = reliability(confidence, right)
    per_class = _per_class(true, ranked[:, 0], right, classes)
    seen = [entry for entry in per_class if entry.recall is not None]
    worst = min(seen, key=lambda entry: (entry.recall or 0.0, -entry.images), default=None)
    metrics = Metrics(
        images=len(true),
        labelled=int(labelled.sum()),
        accuracy=float(right.mean()),
        top_k=ranked.shape[1],
        top_k_accuracy=float(((ranked == true[:, None]) & (true >= 0)[:, None]).any(1).mean()),
        macro_recall=sum(entry.recall or 0.0 for entry in seen) / len(seen) if seen else None,
        worst_recall=worst.recall if worst else None,
        worst_class=worst.label if worst else None,
        threshold=threshold,
        coverage=float(above.mean()),
        accuracy_above=float(right[above].mean()) if above.any() else None,
        coverage_at=[reach(ranking, at, images=len(true)) for at in PRECISIONS],
        aurc=aurc(ranking),
        ece=calibration_error(bins),
        brier=brier(confidence, right),
        per_class=per_class,
    )
    kept = [found.threshold for found in metrics.coverage_at if found.threshold is not None]
    return Measured(metrics, points(ranking, images=len(true), keep=kept), bins)


def _require_sound(
    true: Ints, ranked: Ints, confidence: npt.NDArray[np.floating], labelled: Bools, classes: int
) -> None:
    lengths = {len(true), len(ranked), len(confidence), len(labelled)}
    if len(lengths) > 1:
        raise ValueError(f"arguments of different length: {sorted(lengths)}")
    if not len(true):
        raise ValueError("no image to measure")
    if ranked.ndim != 2 or not ranked.shape[1]:
        raise ValueError(f"the labels kept must be (N, K) with K of 1 or more: {ranked.shape}")
    for name, indices in (("true", true), ("ranked", ranked)):
        if indices.min() < NONE or indices.max() >= classes:
            raise ValueError(f"{name} holds a class index that is none of {classes} classes")
    unsound = ~((confidence >= 0) & (confidence <= 1))  # not `< 0`, which lets NaN through
    if unsound.any():
        at = int(unsound.argmax())
        raise ValueError(f"confidence {confidence[at]} of row {at} is not between 0 and 1")


def _per_class(true: Ints, said: Ints, right: Bools, classes: Sequence[str]) -> list[ClassMetrics]:
    size = len(classes)
    images = np.bincount(true[true >= 0], minlength=size)
    given = np.bincount(said[said >= 0], minlength=size)
    both = np.bincount(true[right], minlength=size)
    recall, precision = _shares(both, images), _shares(both, given)
    return [
        ClassMetrics(name, int(images[at]), recall[at], precision[at])
        for at, name in enumerate(classes)
    ]


def _shares(part: Ints, whole: Ints) -> list[float | None]:
    shares: Doubles = part / np.maximum(whole, 1)
    return [
        share if of else None for share, of in zip(shares.tolist(), whole.tolist(), strict=True)
    ]
