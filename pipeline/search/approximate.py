"""Approximate indexes: few vectors are looked at, in coarser codes; the answers are candidates.

They know rows of the exact index by number, and only those that they were given.
HNSW: Malkov and Yashunin, 2018. Cells and product codes (IVF-PQ): Jegou, Douze and Schmid, 2011.
Shapes: Q queries, D embedding dimensions, C candidates.
"""

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from pipeline.arrays import Floats, Ints
from pipeline.search.choosing import LINKS, Choice, Kind, cells, sample_rows
from pipeline.search.exact import ExactRows

_faiss: Any = faiss  # whose stubs do not tell all that it has
_BLOCK = 16384  # rows added at a time
_CONSTRUCTION = 80  # candidates looked at for the links of a new vector


class Approximate:
    """A FAISS index whose ids are rows."""

    def __init__(self, kind: Kind, index: faiss.Index) -> None:
        """Use `build`, or a FAISS index that was built by it."""
        self.kind: Kind = kind
        self.index: Any = index
        self.rows = np.sort(_rows_in(index))  # it answers with these

    def __len__(self) -> int:
        """Return how many rows it answers with."""
        return len(self.rows)

    def add(self, exact: ExactRows, rows: Ints) -> None:
        """Add rows that are not there yet; not to one that is mapped."""
        for at in range(0, len(rows), _BLOCK):
            block = rows[at : at + _BLOCK]
            self.index.add_with_ids(exact.vectors(block), block)
        self.rows = np.sort(np.concatenate([self.rows, rows]))

    def candidates(self, queries: Floats, count: int, effort: int) -> Ints:
        """Return the likely nearest rows of each query, (Q, C), likeliest first; -1: none.

        Args:
            queries: (Q, D), rows of unit length.
            count: C.
            effort: cells to look into, or candidates to keep on the way through the graph.
        """
        if self.kind == "hnsw":
            parameters = _faiss.SearchParametersHNSW(efSearch=effort)
            count = min(count, effort)  # or FAISS would keep more
        else:
            parameters = _faiss.SearchParametersIVF(nprobe=effort)
        count = min(count, len(self))
        rows: Ints = self.index.search(queries, count, params=parameters)[1]
        return rows

    @property
    def code_bytes(self) -> int:
        """Bytes of a vector as it is compared."""
        return int(self.index.d if self.kind == "hnsw" else self.index.code_size)

    @property
    def fixed_work(self) -> int:
        """Bytes read for each query before any vector is compared: the cells' centres."""
        return 0 if self.kind == "hnsw" else int(self.index.nlist * self.index.d * 4)

    def efforts(self) -> list[int]:
        """Return the efforts worth trying, least first."""
        least, most = (16, 2048) if self.kind == "hnsw" else (1, int(self.index.nlist))
        steps = np.unique(np.round(least * 2 ** np.arange(0, 13, 0.5)).astype(int))
        return [int(step) for step in steps if step < most] + [most]

    def looked_at(self) -> int:
        """Return how many vectors were compared since this was last asked, by the whole process."""
        stats = _faiss.cvar.hnsw_stats if self.kind == "hnsw" else _faiss.cvar.indexIVF_stats
        count = int(stats.ndis)
        stats.reset()
        return count


def build(exact: ExactRows, rows: Ints, choice: Choice) -> Approximate:
    """Train an index on a sample of some rows and add them all.

    Args:
        exact: the vectors.
        rows: those that it is to answer with.
        choice: its kind.
    """
    index = _empty(choice, exact.dimension, len(rows))
    sample = sample_rows(len(rows), exact.dimension)
    chosen = np.sort(np.random.default_rng(0).choice(rows, sample, replace=False))
    index.train(exact.vectors(chosen))
    built = Approximate(choice.kind, index)
    built.add(exact, rows)
    return built


def _empty(choice: Choice, dimension: int, vectors: int) -> faiss.Index:
    metric, byte = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_8bit
    if choice.kind == "hnsw":
        graph = _faiss.IndexHNSWSQ(dimension, byte, LINKS, metric)
        graph.hnsw.efConstruction = _CONSTRUCTION
        return faiss.IndexIDMap(graph)
    coarse, number = faiss.IndexFlatIP(dimension), cells(vectors, dimension)
    index: Any
    if choice.kind == "ivf-sq8":
        index = faiss.IndexIVFScalarQuantizer(coarse, dimension, number, byte, metric)
    else:
        index = faiss.IndexIVFPQ(coarse, dimension, number, choice.code_bytes, 8, metric)
        index.pq.cp.min_points_per_centroid = 1
    index.cp.min_points_per_centroid = 1  # fewer make FAISS print a warning for each code book
    made: faiss.Index = index
    return made


def _rows_in(index: faiss.Index) -> Ints:
    if isinstance(index, faiss.IndexIDMap):
        rows: Ints = faiss.vector_to_array(index.id_map).astype(np.int64)
        return rows
    return np.concatenate([np.empty(0, np.int64), *_rows_by_cell(index)])


def _rows_by_cell(index: Any) -> Iterator[Ints]:
    lists = index.invlists
    for cell in range(index.nlist):
        if size := lists.list_size(cell):
            yield faiss.rev_swig_ptr(lists.get_ids(cell), size).astype(np.int64)
