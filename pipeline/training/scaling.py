"""One number that makes cosines into probabilities: as sure on average as another classifier is.

Matching the mean confidence, as Frolic does: Zhu et al. 2024, arXiv 2410.19294. Fitting the number
to held-out pseudo-labels instead makes a head far too sure, for those that were selected are the
easy ones: on the grocery photos a calibration error of 18 %, where the text classifier has 10 %.
Shapes: N images, C classes.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

from pipeline.arrays import Floats

_RANGE = 20.0  # from a part of the other classifier's scale to as many times it


def mean_confidence(cosines: Floats, scale: float) -> float:
    """Return the mean of the largest probability of each image.

    Args:
        cosines: (N, C), N at least 1.
        scale: what they are multiplied by before the softmax.
    """
    return float(softmax(scale * cosines.astype(np.float64), axis=1).max(axis=1).mean())


def matched_scale(cosines: Floats, confidence: float, near: float) -> float:
    """Return the scale at which the mean confidence is a given one; it grows with the scale.

    Args:
        cosines: (N, C), N at least 1.
        confidence: above 1 / C, at most 1.
        near: a scale to search around; the nearest end where the confidence is out of reach.
    """
    low, high = near / _RANGE, near * _RANGE
    if mean_confidence(cosines, low) >= confidence:
        return low
    if mean_confidence(cosines, high) <= confidence:
        return high
    return float(brentq(lambda s: mean_confidence(cosines, s) - confidence, low, high))
