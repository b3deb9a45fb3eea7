"""What a search asks: the vectors of a store by row, and who is near whom.

Shapes: N images in the index, Q queries, D embedding dimensions, K neighbours asked for.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from pipeline.arrays import Bools, Floats, Halves, Ints, require_unit_rows
from pipeline.search.exact import ExactRows, Neighbours
from pipeline.search.layered import Layer


class SearchIndex:
    """The vectors of a store by row, and who is near whom.

    It keeps what it was opened with: a newer index that comes into force meanwhile is another one.
    """

    def __init__(
        self, exact: ExactRows, parts: Sequence[str] = (), layer: Layer | None = None
    ) -> None:
        """Use `load_index` or `update_index`."""
        self.exact, self.parts, self.layer = exact, list(parts), layer

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
        exact: bool = False,
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
        marks = _marks(among, len(self))
        if exact or self.layer is None:
            return self.exact.search(queries, k, marks)
        return self.layer.search(self.exact, queries, k, marks)

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
