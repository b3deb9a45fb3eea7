"""Samples brought together in memory, for heads that look at all of them again and again."""

import numpy as np

from pipeline.training.samples import Samples, Source

_ROWS = 8192


def gathered(source: Source, most_bytes: int) -> Samples | None:
    """Return all samples of a source in memory; None where their vectors take more than that.

    Args:
        source: gone through once, unless it lies in memory already.
        most_bytes: that image and side vectors may take.
    """
    if isinstance(source, Samples):
        return source
    if len(source) * sum(source.sizes) * np.dtype(np.float32).itemsize > most_bytes:
        return None
    parts = list(source.batches(_ROWS))
    softs = [part.soft for part in parts if part.soft is not None]
    return Samples(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.side for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.weights for part in parts]),
        np.concatenate(softs) if len(softs) == len(parts) else None,
    )
