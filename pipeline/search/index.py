"""The search index over the store's vectors. It is a cache: Parquet is the truth it is built from.

Shapes: N images in the index, Q queries, D embedding dimensions, K neighbours asked for.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from pipeline.arrays import Bools, Floats, Halves, Ints, require_unit_rows
from pipeline.errors import DamagedFileError, InputError
from pipeline.parts import name_sum, uncovered
from pipeline.search.exact import ExactRows, Neighbours
from pipeline.search.pointer import (
    CURRENT,
    Pointer,
    encoder_digest,
    index_files,
    indexed,
    is_current,
    read_pointer,
    write_pointer,
)
from pipeline.search.segments import merged, read_segment, write_segment
from pipeline.store import Store
from pipeline.vectors import read_vectors

__all__ = ["CURRENT", "Neighbours", "index_files", "indexed", "is_current"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexSummary:
    """What one update of the index did."""

    vectors: int  # in the index now
    added: int  # by this update


class SearchIndex:
    """The vectors of a store by row, and who is near whom.

    It keeps what it was opened with: a newer index that comes into force meanwhile is another one.
    """

    def __init__(self, exact: ExactRows, parts: Sequence[str] = ()) -> None:
        """Use `load_index` or `update_index`."""
        self.exact, self.parts = exact, list(parts)

    @classmethod
    def empty(cls, dimension: int) -> "SearchIndex":
        """Return an index without vectors."""
        return cls(ExactRows(dimension))

    def add(self, ids: Sequence[str], vectors: Halves) -> None:
        """Append vectors (n, D)."""
        self.exact.append(ids, vectors)
        self.__dict__.pop("ids", None)

    @cached_property
    def ids(self) -> list[str]:
        """The image of each row."""
        return self.exact.ids.to_list()

    def search(
        self,
        queries: Floats,
        k: int,
        among: Ints | Bools | None = None,
        *,
        exact: bool = False,  # noqa: ARG002
    ) -> Neighbours:
        """Find the K nearest images of each query by cosine.

        Args:
            queries: (Q, D), rows of unit length.
            k: neighbours per query, at least 1.
            among: only these rows of the index, or a mark for each (N,) bool; all when None.
            exact: compare with every row that may answer, however many there are.

        Raises:
            ValueError: a query is not of unit length or of another dimension, k < 1, or `among`
                names a row that is not there.
        """
        require_unit_rows("queries", queries)
        if queries.shape[1] != self.dimension:
            raise ValueError(f"queries are {queries.shape[1]} wide, the index {self.dimension}")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        return self.exact.search(queries, k, _marks(among, len(self)))

    def vectors(self, rows: Ints) -> Floats:
        """Return the stored vectors of some rows, (len(rows), D)."""
        return self.exact.vectors(rows)

    @property
    def dimension(self) -> int:
        """Return D."""
        return self.exact.dimension

    def __len__(self) -> int:
        """Return N."""
        return len(self.exact)


def update_index(store: Store) -> IndexSummary:
    """Bring the index up to the store: new parts are added, and where parts went it is rebuilt.

    Args:
        store: the store; its lock must be held.
    """
    identity = store.identity()
    if identity is None:
        return IndexSummary(vectors=0, added=0)
    parts = store.parts("embeddings")
    try:
        index = _load(store)
    except DamagedFileError as error:
        logger.warning("%s; it is built anew", error)
        index = None
    if index is None or not _all_there(index.parts, parts):
        index = SearchIndex.empty(identity.dimension)
    before, missing = len(index), uncovered(parts, index.parts)
    if not missing:  # merged parts have other names and the same vectors
        return IndexSummary(vectors=before, added=0)
    for part in missing:
        _append(index, *read_vectors(store, part))
        _write_full(store, index.exact)
    index.parts = parts
    save_index(store, index)
    return IndexSummary(vectors=len(index), added=len(index) - before)


def load_index(store: Store, earlier: SearchIndex | None = None) -> SearchIndex:
    """Load the index.

    Args:
        store: the store.
        earlier: one loaded before; files that it holds already are not read again.

    Raises:
        InputError: the store has none yet.
        DamagedFileError: its files are not as they were written.
    """
    index = _load(store, earlier)
    if index is None:
        raise InputError(f"{store.location}: holds no index yet; `pseudolabel run` makes it")
    return index


def save_index(store: Store, index: SearchIndex) -> None:
    """Write an index of the vectors that the store holds now, and turn the pointer to it."""
    segments = merged(index.exact.segments)
    pointer = Pointer(
        name=store.state("embeddings"),
        encoder=encoder_digest(store.identity()),
        parts=index.parts,
        vectors=len(index),
        segments=[write_segment(store, segment) for segment in segments],
    )
    write_pointer(store, pointer)


def _load(store: Store, earlier: SearchIndex | None = None) -> SearchIndex | None:
    return store.steadily(lambda: _load_once(store, earlier))


def _load_once(store: Store, earlier: SearchIndex | None) -> SearchIndex | None:
    pointer, identity = read_pointer(store), store.identity()
    if pointer is None or identity is None:
        return None
    open_already = {segment.held: segment for segment in earlier.exact.segments} if earlier else {}
    segments = [open_already.get(held) or read_segment(store, held) for held in pointer.segments]
    return SearchIndex(ExactRows(identity.dimension, segments), pointer.parts)


def _append(index: SearchIndex, ids: list[str], vectors: Halves) -> None:
    """Append what the index does not hold yet; an id that two parts hold comes once."""
    new = pl.Series("image_id", ids)
    held = index.exact.ids
    fresh = ~new.is_in(held.filter(held.is_in(new.implode())).implode()) & new.is_first_distinct()
    rows = np.flatnonzero(fresh.to_numpy())
    index.add([ids[row] for row in rows], vectors[rows])


def _write_full(store: Store, exact: ExactRows) -> None:
    """Write the segments that no row will be added to, so that a rebuild needs little memory."""
    for place, segment in enumerate(exact.segments[:-1]):
        if segment.held is None:
            exact.segments[place] = read_segment(store, write_segment(store, segment))


def _all_there(held: list[str], parts: list[str]) -> bool:
    """Tell whether all that the index holds is still in the store, be it merged."""
    missing = uncovered(parts, held)
    return name_sum(held) == (name_sum(parts) - name_sum(missing)) % 2**64


def _marks(among: Ints | Bools | None, count: int) -> Bools | None:
    """Return a mark for each row; None where all may answer."""
    if among is None:
        return None
    if among.dtype == np.bool_:
        if among.shape != (count,):
            raise ValueError(f"among marks {among.shape} rows, the index has {count}")
        return np.asarray(among, np.bool_)
    rows = np.asarray(among, np.int64)
    if len(rows) and not 0 <= rows.min() <= rows.max() < count:
        raise ValueError(f"among names rows {rows.min()} to {rows.max()} of {count}")
    marks = np.zeros(count, np.bool_)
    marks[rows] = True
    return marks
