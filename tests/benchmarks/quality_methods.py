"""Every way of labelling that `label_quality` compares, over vectors at hand.

The refinements are the library's own, fitted to all images of a task; neighbours are searched by
brute force. Half centring and Sinkhorn stand here alone: they must be no default of anything.

Shapes: N images, W names, K neighbours, D embedding dimensions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Bools, Floats, Ints
from pipeline.labels import refinement
from pipeline.labels.refinement import NEIGHBOURS, Method, Near, fit, vote_together
from pipeline.labels.scoring import score
from tests.benchmarks.quality_tasks import Task

REFINEMENTS: tuple[Method, ...] = tuple(sorted(refinement.METHODS))
BASELINES = ("half centring", "uniform Sinkhorn")
METHODS = ("naive", *BASELINES, *REFINEMENTS)
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Nearest:
    """The K nearest others of each image."""

    rows: Ints  # (N, K)
    cosines: Floats  # (N, K)
    mutual: Bools  # (N, K)

    def heard(self, probabilities: Floats) -> Near:
        """Return what they say, given what is said of everybody, (N, W)."""
        return Near(probabilities[self.rows], self.cosines, self.mutual)


def labelled(task: Task, nearest: Nearest) -> Iterator[tuple[str, Floats]]:
    """Yield each method's name and its probabilities (N, W), naive first."""
    naive = score(task.images, task.texts, scale=task.scale).classes
    yield "naive", naive
    yield "half centring", half_centred(naive)
    yield "uniform Sinkhorn", balanced(naive)
    near = nearest.heard(naive)
    for method in REFINEMENTS:
        heard = None if method == "anchored" else near
        found = fit(method, naive, task.images, task.texts, heard)
        yield method, vote_together(method, found, naive, task.images, heard)


def nearest_of(images: Floats) -> Nearest:
    """Return the K nearest others of each image, by every cosine there is."""
    cosines = images @ images.T
    np.fill_diagonal(cosines, -np.inf)
    rows = np.argpartition(-cosines, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
    among = np.zeros(cosines.shape, np.bool_)
    np.put_along_axis(among, rows, values=True, axis=1)
    mutual = np.take_along_axis(among.T, rows, axis=1)  # [i, j of i]: is i among those of j?
    return Nearest(rows, np.take_along_axis(cosines, rows, axis=1), mutual)


def half_centred(probabilities: Floats) -> Floats:
    """Take half of each column's lead off its logarithms (after DN, NeurIPS 2023, 2302.11084)."""
    logs = np.log(np.maximum(probabilities, _TINY))
    lead = logs.mean(axis=0)
    weights = np.exp(logs - 0.5 * (lead - lead.mean()))
    rows: Floats = weights / weights.sum(axis=1, keepdims=True)
    return rows


def balanced(probabilities: Floats, rounds: int = 20) -> Floats:
    """Give every column the same total, and every row 1, in turn (Sinkhorn and Knopp 1967)."""
    table = probabilities.astype(np.float64)
    for _ in range(rounds):
        table *= len(table) / table.shape[1] / np.maximum(table.sum(axis=0), _TINY)
        table /= np.maximum(table.sum(axis=1, keepdims=True), _TINY)
    return table.astype(np.float32)
