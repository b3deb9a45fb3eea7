"""Losses of a classifier whose labels may be wrong, each sample as heavy as it is trusted.

Shapes: n samples of a batch, C classes.
"""

import torch
from torch.nn import functional

from pipeline.training.heads.base import Loss

GENERALISED_Q = 0.7  # as Zhang and Sabuncu 2018 have it throughout


def sample_losses(
    logits: torch.Tensor, targets: torch.Tensor, kind: Loss, smoothing: float = 0.0
) -> torch.Tensor:
    """Return the loss of each sample (n,).

    Args:
        logits: (n, C).
        targets: (n,) class indices, or (n, C) shares of the classes, rows that sum to 1.
        kind: which loss.
        smoothing: share of each target that is spread over all classes (Szegedy et al. 2016); of
            cross-entropy only: the generalised one bounds what a wrong label can do by itself.
    """
    if kind == "cross-entropy":
        return functional.cross_entropy(
            logits, targets, reduction="none", label_smoothing=smoothing
        )
    return generalised(logits, targets)


def generalised(
    logits: torch.Tensor, targets: torch.Tensor, q: float = GENERALISED_Q
) -> torch.Tensor:
    """Return the generalised cross-entropy of each sample, (1 - p**q) / q for its class (n,).

    Between cross-entropy (q toward 0) and the mean absolute error (q = 1): the less the head
    believes a label, the less that label pulls. Zhang and Sabuncu 2018, arXiv 1805.07836, eq. 6.
    Of soft targets it is the mean over the classes, weighted by their shares.

    Args:
        logits: (n, C).
        targets: as in `sample_losses`.
        q: above 0, at most 1.

    Raises:
        ValueError: q is out of its range.
    """
    if not 0 < q <= 1:
        raise ValueError(f"q must be above 0 and at most 1, got {q}")
    log_p = functional.log_softmax(logits, dim=1)
    if targets.ndim == 1:
        return -torch.expm1(q * log_p.gather(1, targets[:, None])[:, 0]) / q
    return (targets * -torch.expm1(q * log_p)).sum(dim=1) / q


def weighted_mean(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the mean of losses (n,) under weights (n,), a scalar; only their ratios matter."""
    return (losses * weights).sum() / weights.sum()
