"""How ways of labelling compare on images that none of them was made from.

Shapes: n images, C classes.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Bools, Floats, Ints
from pipeline.labels.calibration import calibration_error

ZERO_SHOT, REFINED = "zero-shot labels", "refined labels"


@dataclass(frozen=True)
class Answers:
    """What one method says of the images that it is measured on."""

    labels: Ints  # (n,) class indices
    scores: Floats  # (n,) how sure it is of each, 0 to 1


@dataclass(frozen=True)
class Line:
    """How one way of labelling did; shares from 0 to 1, null where there is nothing to compare."""

    method: str
    accuracy: float | None  # with what it is measured by
    macro_recall: float | None  # mean over the classes that occur
    calibration_error: float | None  # expected, over 15 bins of equal numbers
    seconds: float | None  # to fit; null: it was not fitted


def line(method: str, said: Answers, right: Ints, seconds: float | None) -> Line:
    """Compare answers (n,) with the right class indices (n,); with n = 0 nothing can be told."""
    if not len(right):
        return Line(method, None, None, None, seconds)
    hit: Bools = said.labels == right
    recalls = [hit[right == index].mean() for index in np.unique(right)]
    error, _ = calibration_error(said.scores, hit, np.ones(len(hit)))
    return Line(method, float(hit.mean()), float(np.mean(recalls)), error, seconds)


def answers(probabilities: Floats) -> Answers:
    """Return the likeliest of (n, C) probabilities and how sure it is."""
    return Answers(probabilities.argmax(axis=1), probabilities.max(axis=1))
