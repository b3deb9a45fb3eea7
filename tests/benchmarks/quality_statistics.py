"""How right labels are, and how sure one can be that one way is better than another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Bools, Floats, Ints

BINS = 15
DRAWS = 2000


@dataclass(frozen=True)
class Change:
    """A mean difference, in points, with its interval of 95 %."""

    mean: float
    low: float
    high: float


class Paired:
    """A bootstrap of the mean difference of two methods over the same images.

    An image that several seeds drew is drawn with all of these or not at all, for its answers go
    together (a cluster bootstrap, by percentiles). All differences see the same 2,000 draws.
    """

    def __init__(self, ids: Sequence[Ints]) -> None:
        """Draw.

        Args:
            ids: for every seed, (n,) which images.
        """
        _, self._cluster, counts = np.unique(
            np.concatenate(ids), return_inverse=True, return_counts=True
        )
        equal = np.full(len(counts), 1 / len(counts))
        self._times = np.random.default_rng(0).multinomial(len(counts), equal, DRAWS)
        self._totals = self._times @ counts

    def change(self, differences: Sequence[Floats]) -> Change:
        """Return the mean and its interval.

        Args:
            differences: for every seed, (n,) right by the one minus right by the other.
        """
        each = np.concatenate(differences).astype(np.float64)
        means = self._times @ np.bincount(self._cluster, each) / self._totals
        low, high = np.percentile(means, [2.5, 97.5])
        return Change(100 * float(each.mean()), 100 * float(low), 100 * float(high))


def macro_recall(true: Ints, right: Bools) -> float:
    """Return the mean recall, 0 to 1, of the classes that are there."""
    return float(np.mean([right[true == index].mean() for index in np.unique(true)]))


def calibration_error(confidence: Floats, right: Bools) -> float:
    """Return the ECE, 0 to 1, over 15 bins of as equal a number of images as can be."""
    order = np.argsort(confidence, kind="stable")
    bins = np.array_split(order, min(BINS, len(order)))
    gaps = [len(b) * abs(float(confidence[b].mean()) - float(right[b].mean())) for b in bins]
    return sum(gaps) / len(order)
