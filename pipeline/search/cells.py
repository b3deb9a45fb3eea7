"""Cells: the images of an index divided by their nearest centroid, so that few meet each image.

An image is compared with the images of the cells nearest to it. How many cells that are is found
on a sample whose nearest others are known exactly, and what share of them is found is measured on
another one. Cells are a cache: images that came later go to the cells that are there, and they are
made anew when the store has doubled.

Shapes: N images in the index, Q asked about, C cells, P cells that are looked at for an image, K
nearest others, D embedding dimensions.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

import faiss
import numpy as np

from pipeline.arrays import Bools, Floats, Ints, Shorts
from pipeline.caching import cached_arrays, keep_arrays
from pipeline.search.exact import nearest_of
from pipeline.search.self_join import (
    Everybody,
    Meeting,
    Vectors,
    block_rows,
    blocks,
    nearest_others,
)
from pipeline.search.tuning import recall_of
from pipeline.store import Store

TARGET = 0.95  # recall, of the K nearest others
SAMPLE = 256  # images that recall is measured on
_CACHE = "cache/cells.npz"
_PER_CENTROID = 40  # images that a centroid is trained on
_LARGE = 4  # times the mean number of images of a cell
_SHRINKS = 0.9  # the share of images in large cells that may be left for dividing to go on
_ROUNDS = 10  # of k-means: more of them hardly change who is found

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cells:
    """A plan that has each image meet those of the P cells nearest to it."""

    index: Vectors
    centroids: Floats  # (C, D), rows of unit length
    homes: Shorts  # (N,) the cell of each image
    probes: int  # P; 0: not tuned yet
    trained: int  # N, when the centroids were made
    exact: bool = False

    @property
    def visits(self) -> int:
        """Return P."""
        return self.probes

    def meetings(self, asked: Ints, among: Bools | None = None) -> Iterator[Meeting]:
        """Yield what to compare cell by cell, as in `self_join.Plan`."""
        step, count = block_rows(self.index.dimension), len(self.centroids)
        members = np.argsort(self.homes, kind="stable")
        if among is not None:
            members = members[among[members]]
        ends = np.cumsum(np.bincount(self.homes[members], minlength=count))
        visited = self.nearest(asked, min(self.probes, count))
        visits = np.argsort(visited.ravel(), kind="stable")
        stops = np.cumsum(np.bincount(visited.ravel(), minlength=count))
        for cell in range(count):
            rows = members[ends[cell - 1] if cell else 0 : ends[cell]]
            places = visits[stops[cell - 1] if cell else 0 : stops[cell]] // visited.shape[1]
            yield from blocks(places, rows, step)

    def nearest(self, rows: Ints, count: int) -> Shorts:
        """Return the cells nearest to some images, nearest first: (len(rows), count)."""
        found = np.empty((len(rows), count), np.int32)
        step = block_rows(self.index.dimension)
        for at in range(0, len(rows), step):
            vectors = self.index.vectors(rows[at : at + step])
            found[at : at + step] = nearest_of(vectors, self.centroids, count)[1]
        return found


def make_cells(index: Vectors) -> Cells:
    """Divide an index into 2 sqrt(N) cells or some more, by spherical k-means on a sample of it.

    K-means leaves crowds without a centroid, and these gather in one cell: where 1,000,000 vectors
    lie in 2,000 crowds, in one of a third of them all. Such cells are divided again.
    """
    count, number = len(index), max(1, int(2 * len(index) ** 0.5))
    every = np.arange(count)
    cells = Cells(index, _centroids(index, every, number), np.empty(0, np.int32), 0, trained=count)
    cells = replace(cells, homes=cells.nearest(every, 1)[:, 0])
    divided, crowded = cells, count
    while True:
        sizes = np.bincount(divided.homes, minlength=len(divided.centroids))
        large = np.flatnonzero(sizes > _LARGE * count / number)
        if not len(large) or sizes[large].sum() > _SHRINKS * crowded:  # equal vectors stay together
            break
        crowded = int(sizes[large].sum())
        divided = _divided(divided, large, count / number)
    if divided is cells:
        return cells
    return replace(divided, homes=divided.nearest(every, 1)[:, 0])


def _divided(cells: Cells, large: Ints, mean: float) -> Cells:
    """Divide some cells into ones of that many images; only their images get other homes."""
    index, homes = cells.index, cells.homes
    members = [np.flatnonzero(homes == cell) for cell in large]
    made = [_centroids(index, rows, ceil(len(rows) / mean)) for rows in members]
    kept = np.ones(len(cells.centroids), np.bool_)
    kept[large] = False
    homes = (np.cumsum(kept) - 1).astype(np.int32)[homes]
    cells = replace(cells, centroids=np.concatenate([cells.centroids[kept], *made]))
    moved = np.concatenate(members)
    homes[moved] = cells.nearest(moved, 1)[:, 0]
    return replace(cells, homes=homes)


def _centroids(index: Vectors, rows: Ints, number: int) -> Floats:
    """Return (number, D) centroids of some images."""
    size = min(len(rows), _PER_CENTROID * number)
    sample = np.sort(np.random.default_rng(0).choice(rows, size, replace=False))
    training = faiss.Kmeans(
        index.dimension,
        number,
        niter=_ROUNDS,
        spherical=True,
        seed=1,
        min_points_per_centroid=1,
        max_points_per_centroid=_PER_CENTROID,
    )
    training.train(index.vectors(sample))
    return np.asarray(training.centroids, np.float32)


def load_cells(store: Store, index: Vectors, ids: list[str]) -> Cells:
    """Return the cells that the store keeps, with what came later in them; or make them.

    Args:
        store: the store.
        index: N images.
        ids: of the images, N.
    """
    kept = cached_arrays(store, _CACHE) or {}
    if set(kept) != {"centroids", "homes", "about", "ids"}:
        return make_cells(index)
    homes, (probes, trained) = kept["homes"], kept["about"].tolist()
    same = len(homes) <= len(ids) and bytes(kept["ids"]) == _digest(ids[: len(homes)])
    if not same or kept["centroids"].shape[1] != index.dimension or len(ids) >= 2 * trained:
        return make_cells(index)
    cells = Cells(index, kept["centroids"], homes.astype(np.int32), int(probes), int(trained))
    later = cells.nearest(np.arange(len(homes), len(ids)), 1)[:, 0]
    return replace(cells, homes=np.concatenate([cells.homes, later]))


def keep_cells(store: Store, cells: Cells, ids: list[str]) -> None:
    """Keep cells; the store's lock must be held."""
    keep_arrays(
        store,
        _CACHE,
        centroids=cells.centroids,
        homes=cells.homes,
        about=np.array([cells.probes, cells.trained]),
        ids=np.frombuffer(_digest(ids), np.uint8),
    )


def tuned(cells: Cells, asked: Ints, k: int, *, target: float = TARGET) -> tuple[Cells, float]:
    """Have as many cells looked at as find the K nearest others, and measure how many are found.

    Args:
        cells: of an index.
        asked: (Q,) rows; at least two, samples of which are looked at.
        k: K.
        target: the share to find, above 0 to 1.

    Returns:
        The cells with their P, and the recall: the share of the true K nearest others that are
        found, of up to 256 images that P was not chosen by.
    """
    size = min(2 * SAMPLE, len(asked))
    sample = np.random.default_rng(0).choice(asked, size, replace=False)
    choosing, measuring = sample[: size // 2], sample[size // 2 :]
    true = nearest_others(cells.index, sample, k, Everybody(cells.index))
    number, half = len(cells.centroids), len(choosing)
    near = true.rows[:half]
    order = cells.nearest(choosing, number)  # an image is found if its cell is looked at
    rank = np.argsort(order, axis=1)
    needed = np.sort(np.take_along_axis(rank, cells.homes[near], axis=1)[near >= 0]) + 1
    probes = int(needed[ceil(target * len(needed)) - 1]) if len(needed) else 1
    while True:
        cells = replace(cells, probes=probes)
        found = nearest_others(cells.index, measuring, k, cells)
        recall = float(recall_of(found.cosines, true.cosines[half:]).mean())
        if recall >= target or probes >= number:
            break
        probes = min(number, ceil(1.25 * probes))
    logger.info("%d of %d cells are looked at: recall %.3f", probes, number, recall)
    return cells, recall


def _digest(ids: list[str]) -> bytes:
    return hashlib.sha256("\n".join(ids).encode()).digest()
