"""Samples that no head may learn from: what is no number, weights of nothing, unknown classes."""

import numpy as np

from pipeline.errors import InputError
from pipeline.training.samples import Samples


def require_sound(samples: Samples, classes: int, *, soft: bool = False) -> None:
    """Check a batch.

    Args:
        samples: to be learnt from.
        classes: C.
        soft: whether their shares of the classes are wanted.

    Raises:
        InputError: a vector, a weight or a share is no finite number, a weight is not above 0, or
            a label is no index of a class.
    """
    require_finite(samples.images, "image vector")
    require_finite(samples.side, "side vector")
    weights, labels = samples.weights, samples.labels
    if not np.all((weights > 0) & (weights < np.inf)):  # not `any(weights <= 0)`: NaN would pass
        raise InputError(f"a sample's weight must be above 0 and finite, got {_worst(weights)}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise InputError(
            f"labels from {labels.min()} to {labels.max()}, but there are {classes} classes"
        )
    if soft and samples.soft is None:
        raise InputError(
            "train.soft_targets: these samples hold no shares of the classes, only labels; "
            "set it to false"
        )
    if samples.soft is not None:
        require_finite(samples.soft, "row of soft labels")
        if samples.soft.shape[1] != classes:
            raise InputError(
                f"soft labels of {samples.soft.shape[1]} classes, but there are {classes}"
            )


def require_finite(rows: np.ndarray, what: str) -> None:
    """Raise InputError unless every number of (N, any) rows is finite."""
    # The sum is not finite where a summand is not, and takes no array of the size of `rows`; rows
    # so large that their sum overflows are looked at one by one.
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(rows.sum())
    if not finite and not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows).all(axis=1)).sum())
        raise InputError(
            f"{bad} of {len(rows)} samples have no number somewhere in their {what} (NaN or "
            "infinite); `pseudolabel verify` finds damaged vectors"
        )


def require_sizes(given: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Raise InputError unless image and side vectors are as wide as a head takes them."""
    if given != wanted:
        raise InputError(
            f"the head takes {wanted[0]} numbers of an image and {wanted[1]} beside it, these are "
            f"{given[0]} and {given[1]}: train it again for this encoder and this side information"
        )


def _worst(weights: np.ndarray) -> float:
    return float(weights[~((weights > 0) & (weights < np.inf))][0])
