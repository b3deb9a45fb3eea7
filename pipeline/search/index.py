"""A FAISS index over the store's vectors. It is a cache: Parquet is the truth it is built from.

An index is two files that share a name, the vectors and the image id of each row, and a pointer,
`index/current.json`, that is turned to them when both are there. Rows are found by number, so the
two are only ever written together.
Shapes: N images in the index, Q queries, D embedding dimensions, K neighbours asked for.
"""

from dataclasses import dataclass
from io import BytesIO

import faiss
import numpy as np
import polars as pl

from pipeline.arrays import Floats, Halves, Ints, require_unit_rows
from pipeline.errors import InputError, StoreError
from pipeline.store import Store
from pipeline.vectors import iterate_vectors

_CURRENT = "index/current.json"


@dataclass(frozen=True)
class IndexSummary:
    """What one update of the index did."""

    vectors: int  # in the index now
    added: int  # by this update


@dataclass(frozen=True)
class Neighbours:
    """The nearest images of each query, most similar first."""

    rows: Ints  # (Q, K) rows of the index; -1 where there were fewer than K
    cosines: Floats  # (Q, K); -inf where there were fewer than K


class SearchIndex:
    """An exact index in half precision: what it compares are the stored vectors themselves."""

    def __init__(self, index: faiss.Index, ids: list[str], parts: list[str]) -> None:
        """Use `load_index` or `update_index`."""
        self._index, self.ids, self.parts = index, ids, parts

    @classmethod
    def empty(cls, dimension: int) -> "SearchIndex":
        """Return an index without vectors."""
        kind, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        return cls(faiss.IndexScalarQuantizer(dimension, kind, metric), [], [])

    def add(self, part: str, ids: list[str], vectors: Halves) -> None:
        """Append the vectors (n, D) of one part."""
        if ids:
            self._index.add(np.ascontiguousarray(vectors, np.float32))
        self.ids += ids
        self.parts.append(part)

    def search(self, queries: Floats, k: int, among: Ints | None = None) -> Neighbours:
        """Find the K nearest images of each query by cosine.

        Args:
            queries: (Q, D), rows of unit length.
            k: neighbours per query, at least 1.
            among: only these rows of the index; all when None.

        Raises:
            ValueError: a query is not of unit length or of another dimension, or k < 1.
        """
        require_unit_rows("queries", queries)
        if queries.shape[1] != self._index.d:
            raise ValueError(f"queries are {queries.shape[1]} wide, the index {self._index.d}")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        parameters = None
        if among is not None:
            selector = faiss.IDSelectorBatch(np.ascontiguousarray(among, np.int64))
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        contiguous = np.ascontiguousarray(queries, np.float32)
        cosines, rows = self._index.search(contiguous, k, params=parameters)
        return Neighbours(rows=rows, cosines=np.where(rows < 0, -np.inf, cosines))

    def vectors(self, rows: Ints) -> Floats:
        """Return the stored vectors of some rows, (len(rows), D)."""
        found: Floats = self._index.reconstruct_batch(rows)
        return found

    def __len__(self) -> int:
        """Return N."""
        return len(self.ids)


def update_index(store: Store) -> IndexSummary:
    """Bring the index up to the store: new parts are added, and where parts went it is rebuilt."""
    identity = store.identity()
    if identity is None:
        return IndexSummary(vectors=0, added=0)
    index = _load(store)
    parts = store.parts("embeddings")
    if index is None or not set(index.parts) <= set(parts):
        index = SearchIndex.empty(identity.dimension)
    elif len(index.parts) == len(parts):
        return IndexSummary(vectors=len(index), added=0)
    before, done = len(index), set(index.parts)
    for part, ids, vectors in iterate_vectors(store):  # an id that two parts hold comes once
        if part not in done:
            index.add(part, ids, vectors)
    _save(store, index)
    return IndexSummary(vectors=len(index), added=len(index) - before)


def is_current(store: Store) -> bool:
    """Tell whether the index holds exactly the parts that the store holds."""
    return store.get_json(_CURRENT).get("parts", []) == store.parts("embeddings")


def load_index(store: Store) -> SearchIndex:
    """Load the index.

    Raises:
        InputError: the store has none yet.
        StoreError: its files are damaged.
    """
    index = _load(store)
    if index is None:
        raise InputError(f"{store.root}: holds no index yet; `pseudolabel run` makes it")
    return index


def _load(store: Store) -> SearchIndex | None:
    pointer = store.get_json(_CURRENT)
    if not pointer:
        return None
    name, parts = pointer["name"], pointer["parts"]
    assert isinstance(parts, list)
    vectors, ids = store.root / f"index/{name}.faiss", store.root / f"index/{name}.parquet"
    try:
        index = faiss.read_index(str(vectors))
        image_ids = pl.read_parquet(ids)["image_id"].to_list()
    except (RuntimeError, OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(
            f"{vectors}: the index cannot be read ({str(error).splitlines()[0]}). "
            f"It is a cache: delete {store.root / 'index'} and run again."
        ) from error
    return SearchIndex(index, image_ids, [str(part) for part in parts])


def _save(store: Store, index: SearchIndex) -> None:
    name = store.state("embeddings")
    old = store.get_json(_CURRENT).get("name")
    buffer = BytesIO()
    pl.DataFrame({"image_id": index.ids}, schema={"image_id": pl.String}).write_parquet(buffer)
    store.put(f"index/{name}.parquet", buffer.getbuffer())
    store.put(f"index/{name}.faiss", faiss.serialize_index(index._index).data)
    store.put_json(_CURRENT, {"name": name, "parts": index.parts})
    if old and old != name:
        for suffix in ("parquet", "faiss"):
            (store.root / f"index/{old}.{suffix}").unlink(missing_ok=True)
