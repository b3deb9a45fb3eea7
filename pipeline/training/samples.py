"""What heads learn from: vectors with labels, held in memory or read as they are needed.

Shapes: N samples, D image dimensions, S side dimensions (0: image alone), C classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.arrays import Floats, Ints


class Source(Protocol):
    """Samples that can be gone through as often as wanted."""

    def __len__(self) -> int:
        """Return N."""

    @property
    def sizes(self) -> tuple[int, int]:
        """D and S."""

    def batches(self, size: int, seed: int | None = None) -> Iterator["Samples"]:
        """Yield every sample once, `size` at a time, the last ones fewer.

        Args:
            size: samples of a batch.
            seed: of the order they come in, which differs from seed to seed; None: as they lie.
        """


@dataclass(frozen=True)
class Samples:
    """Vectors and labels in memory, row by row; a `Source` of itself."""

    images: Floats  # (N, D), rows of unit length
    side: Floats  # (N, S), what is known beside the pixels
    labels: Ints  # (N,) class indices
    weights: Floats  # (N,) above 0
    soft: Floats | None = None  # (N, C), rows sum to 1: how likely each class is; None: not kept

    def __len__(self) -> int:
        """Return N."""
        return len(self.labels)

    @property
    def sizes(self) -> tuple[int, int]:
        """D and S."""
        return self.images.shape[1], self.side.shape[1]

    def take(self, rows: Ints) -> "Samples":
        """Return the samples of some rows, in their order."""
        return Samples(
            self.images[rows],
            self.side[rows],
            self.labels[rows],
            self.weights[rows],
            None if self.soft is None else self.soft[rows],
        )

    def batches(self, size: int, seed: int | None = None) -> Iterator["Samples"]:
        """Yield every sample once, as `Source` says."""
        order = np.arange(len(self))
        if seed is not None:
            np.random.default_rng(seed).shuffle(order)
        for at in range(0, len(order), size):
            yield self.take(order[at : at + size])
