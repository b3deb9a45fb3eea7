"""Exact search over rows in half precision: what is compared are the stored vectors themselves.

A few queries are compared by FAISS with the rows as they are stored. For many, blocks of rows are
decoded once and compared with all queries by a matrix product: that is several times as fast, and
a block bounds the memory.
Shapes: N rows, Q queries, D embedding dimensions, K neighbours asked for.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import faiss
import numpy as np
import polars as pl

from pipeline.arrays import Bools, Floats, Halves, Ints
from pipeline.cores import cores
from pipeline.search.segments import MOST_BYTES, Segment, segment_of

MANY = 8  # queries from which decoding all rows costs less than comparing them encoded
_WORTH_THREADS = 1 << 22  # numbers; fewer are compared in the time that threads take to start
_SPARSE = 256  # one row in so many passes: these are fetched, the others not even looked at
_BLOCK_BYTES = 32 << 20  # of decoded rows


@dataclass(frozen=True)
class Neighbours:
    """The nearest images of each query, most similar first."""

    rows: Ints  # (Q, K) rows of the index; -1 where there were fewer than K
    cosines: Floats  # (Q, K); -inf where there were fewer than K


class ExactRows:
    """Vectors in segments; their rows are counted through all of them, in order."""

    def __init__(self, dimension: int, segments: Sequence[Segment] = ()) -> None:
        """Take segments, oldest first."""
        self.dimension, self.segments = dimension, list(segments)

    def __len__(self) -> int:
        """Return N."""
        return sum(map(len, self.segments))

    @property
    def ids(self) -> pl.Series:
        """The image id of each row."""
        empty = pl.Series("image_id", [], pl.String)
        return pl.concat([segment.ids for segment in self.segments]) if self.segments else empty

    def append(self, ids: Sequence[str], vectors: Halves) -> None:
        """Append vectors (n, D) in memory, in segments that are no larger than they may be."""
        most = MOST_BYTES // (2 * self.dimension)
        while len(ids):
            last = self.segments[-1] if self.segments else None
            if last is None or last.held is not None or len(last) >= most:
                last = segment_of([], vectors[:0])
                self.segments.append(last)
            room = most - len(last)
            last.index.add_sa_codes(np.ascontiguousarray(vectors[:room]).view(np.uint8))
            grown = last.ids.append(pl.Series("image_id", ids[:room], pl.String))
            self.segments[-1] = Segment(grown, last.index)
            ids, vectors = ids[room:], vectors[room:]

    def vectors(self, rows: Ints) -> Floats:
        """Return the vectors of some rows, (len(rows), D).

        Raises:
            IndexError: there is no such row.
        """
        rows = np.asarray(rows, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows are 0 to {len(self) - 1}, got {rows.min()} to {rows.max()}")
        if not len(rows):
            return np.empty((0, self.dimension), np.float32)
        codes = np.empty((len(rows), 2 * self.dimension), np.uint8)
        ends = np.cumsum([len(segment) for segment in self.segments])
        homes = np.searchsorted(ends, rows, side="right")
        for home in np.unique(homes).tolist():
            here, segment = np.flatnonzero(homes == home), self.segments[home]
            codes[here] = segment.codes[rows[here] - ends[home] + len(segment)]
        found: Floats = self.segments[0].index.sa_decode(codes)  # much faster than NumPy's halves
        return found

    def blocks(self, among: Bools | None = None) -> Iterator[tuple[Ints, Floats]]:
        """Yield (rows, vectors), block by block, of all rows or of those marked in `among` (N,)."""
        size = max(1024, _BLOCK_BYTES // (4 * self.dimension))
        for start, segment in self._placed():
            if among is None:
                rows = np.arange(start, start + len(segment))
            else:
                rows = start + np.flatnonzero(among[start : start + len(segment)])
            for at in range(0, len(rows), size):
                block = rows[at : at + size]
                whole = len(block) == block[-1] - block[0] + 1
                places = slice(block[0] - start, block[-1] - start + 1) if whole else block - start
                yield block, segment.index.sa_decode(segment.codes[places])

    def search(self, queries: Floats, k: int, among: Bools | None = None) -> Neighbours:
        """Find the K nearest rows of each query by cosine.

        Args:
            queries: (Q, D), rows of unit length.
            k: neighbours per query, at least 1.
            among: (N,) marks the rows that may answer; all when None.
        """
        count = len(self)
        passing = count if among is None else int(np.count_nonzero(among))
        if passing == count:
            among = None
        best = Best(len(queries), min(k, passing))
        queries = np.ascontiguousarray(queries, np.float32)
        if len(queries) >= MANY or passing * _SPARSE < count:
            for rows, vectors in self.blocks(among):
                best.add(*_product(queries, rows, vectors, best.k))
        elif passing:
            for rows, cosines in self._scan(queries, best.k, among):
                best.add(rows, cosines)
        return best.neighbours(k)

    def _scan(self, queries: Floats, k: int, among: Bools | None) -> list[tuple[Ints, Floats]]:
        """Return what each segment answers; FAISS itself would use one core for each query."""

        def scanned(placed: tuple[int, Segment]) -> tuple[Ints, Floats]:
            start, segment = placed
            marked = None if among is None else among[start : start + len(segment)]
            return _scanned(segment, start, queries, k, marked)

        if len(self) * self.dimension < _WORTH_THREADS or len(self.segments) == 1:
            return [scanned(placed) for placed in self._placed()]
        one_each = partial(faiss.omp_set_num_threads, 1)  # counts for the thread that calls it
        with ThreadPoolExecutor(min(cores(), len(self.segments)), initializer=one_each) as pool:
            return list(pool.map(scanned, self._placed()))

    def _placed(self) -> Iterator[tuple[int, Segment]]:
        start = 0
        for segment in self.segments:
            yield start, segment
            start += len(segment)


class Best:
    """The nearest rows of each query, as far as rows were looked at."""

    def __init__(self, queries: int, k: int) -> None:
        """Begin with none."""
        self.k = k
        self._rows = np.empty((queries, 0), np.int64)
        self._cosines = np.empty((queries, 0), np.float32)

    def add(self, rows: Ints, cosines: Floats) -> None:
        """Take (Q, any) rows into account; -1: none."""
        cosines = np.where(rows < 0, -np.inf, cosines).astype(np.float32, copy=False)
        rows = np.concatenate([self._rows, rows], axis=1)
        cosines = np.concatenate([self._cosines, cosines], axis=1)
        if rows.shape[1] > self.k:
            kept = np.argpartition(-cosines, self.k - 1, axis=1)[:, : self.k]
            rows = np.take_along_axis(rows, kept, 1)
            cosines = np.take_along_axis(cosines, kept, 1)
        self._rows, self._cosines = rows, cosines

    def neighbours(self, k: int) -> Neighbours:
        """Return (Q, k): most similar first, of equally similar ones the first row first."""
        order = np.lexsort((self._rows, -self._cosines), axis=1)
        short = ((0, 0), (0, k - order.shape[1]))
        rows = np.pad(np.take_along_axis(self._rows, order, 1), short, constant_values=-1)
        cosines = np.take_along_axis(self._cosines, order, 1)
        return Neighbours(rows, np.pad(cosines, short, constant_values=-np.inf))


def nearest_of(queries: Floats, vectors: Floats, k: int) -> tuple[Floats, Ints]:
    """Find the K nearest of some vectors by a matrix product.

    Args:
        queries: (Q, D).
        vectors: (n, D).
        k: at most n.

    Returns:
        (Q, K) cosines, nearest first, and (Q, K) places among the vectors.
    """
    # FAISS's own default takes the matrix product for very many queries only. The setting is the
    # process's: set everywhere, so that the last bits do not depend on what ran before.
    faiss.cvar.distance_compute_blas_threshold = 1
    cosines, places = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    return cosines, places


def _product(queries: Floats, rows: Ints, vectors: Floats, k: int) -> tuple[Ints, Floats]:
    cosines, places = nearest_of(queries, vectors, min(k, len(rows)))
    return np.where(places < 0, -1, rows[places]), cosines


def _scanned(
    segment: Segment, start: int, queries: Floats, k: int, marked: Bools | None
) -> tuple[Ints, Floats]:
    if not (len(segment) if marked is None else marked.any()):
        return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    parameters = None
    if marked is not None:
        bits = np.packbits(marked, bitorder="little")  # must live as long as the search
        selector = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]
        parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
    some = min(k, len(segment))
    cosines, places = segment.index.search(queries, some, params=parameters)
    return np.where(places < 0, -1, places + start), cosines
