"""One number that makes cosines into probabilities which agree with what was held out.

Temperature scaling: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599.
What is held out are pseudo-labels: the probabilities become as sure as those deserve it to be, and
stay a score; only an audit knows the truth.
Shapes: N samples, C classes.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from pipeline.arrays import Floats
from pipeline.training.heads.base import HeadSettings
from pipeline.training.samples import Source

_RANGE = 10.0  # from a tenth of the scale to ten times as much
_ENOUGH = 20_000  # samples: one number needs no more


def fitted_scale(
    cosines: Callable[[Floats], Floats], samples: Source, scale: float, settings: HeadSettings
) -> float:
    """Return the scale whose softmax has the lowest cross-entropy with the samples' targets.

    These are soft or smoothed as the settings say, which keeps the scale finite where every label
    is agreed with.

    Args:
        cosines: makes (n, C) of image vectors (n, D).
        samples: at least one; of many, some.
        scale: the model's own, above 0: a tenth of it to ten times as much is looked at.
        settings: whether targets are soft, and how much they are smoothed.
    """
    found, targets, weights, count = [], [], [], 0
    for batch in samples.batches(settings.batch_size, settings.seed):
        found.append(cosines(batch.images).astype(np.float64))
        soft = batch.soft if settings.soft_targets else None
        classes = found[-1].shape[1]
        targets.append(np.eye(classes)[batch.labels] if soft is None else soft)
        weights.append(batch.weights)
        count += len(batch)
        if count >= _ENOUGH:
            break
    logits, shares, weight = (np.concatenate(parts) for parts in (found, targets, weights))
    shares = (1 - settings.label_smoothing) * shares + settings.label_smoothing / logits.shape[1]

    def loss(log_scale: float) -> float:
        losses = -(shares * log_softmax(np.exp(log_scale) * logits, axis=1)).sum(axis=1)
        return float(np.average(losses, weights=weight))

    around = np.log(scale) - np.log(_RANGE), np.log(scale) + np.log(_RANGE)
    return float(np.exp(minimize_scalar(loss, bounds=around, method="bounded").x))
