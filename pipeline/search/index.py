"""A FAISS index over the store's vectors. It is a cache: Parquet is the truth it is built from.

An index is two files that share a name, the vectors and the image id of each row, and a pointer,
`index/current.json`, that is turned to them when both are there. Rows are found by number, so the
two are only ever written together.
Shapes: N images in the index, Q queries, D embedding dimensions, K neighbours asked for.
"""

import hashlib
import logging
from dataclasses import dataclass
from io import BytesIO

import faiss
import numpy as np
import polars as pl

from pipeline.arrays import Floats, Halves, Ints, require_unit_rows
from pipeline.errors import DamagedFileError, InputError
from pipeline.parts import name_sum, uncovered
from pipeline.store import Store
from pipeline.vectors import iterate_vectors

CURRENT = "index/current.json"
_KINDS = ("faiss", "parquet")

logger = logging.getLogger(__name__)


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

    def add(self, ids: list[str], vectors: Halves) -> None:
        """Append vectors (n, D)."""
        if ids:
            self._index.add(np.ascontiguousarray(vectors, np.float32))
        self.ids += ids

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

    @property
    def dimension(self) -> int:
        """Return D."""
        return int(self._index.d)

    def __len__(self) -> int:
        """Return N."""
        return len(self.ids)


def update_index(store: Store) -> IndexSummary:
    """Bring the index up to the store: new parts are added, and where parts went it is rebuilt."""
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
    before, missing = len(index), set(uncovered(parts, index.parts))
    if not missing:  # merged parts have other names and the same vectors
        return IndexSummary(vectors=before, added=0)
    held = set(index.ids)
    for part, ids, vectors in iterate_vectors(store):  # an id that two parts hold comes once
        if part in missing:
            fresh = np.flatnonzero([image_id not in held for image_id in ids])
            index.add([ids[row] for row in fresh], vectors[fresh])
    index.parts = parts
    save_index(store, index)
    return IndexSummary(vectors=len(index), added=len(index) - before)


def is_current(store: Store) -> bool:
    """Tell whether the index holds exactly the parts that the store holds."""
    try:
        pointer = store.get_json(CURRENT)
    except DamagedFileError:
        return False
    held = [str(part) for part in _listed(pointer.get("parts"))]
    files = {f"{pointer.get('name')}.{kind}" for kind in _KINDS}
    there = not pointer or files <= set(store.folder.names("index"))
    return there and name_sum(held) == name_sum(store.parts("embeddings"))


def indexed(store: Store) -> int:
    """Return how many images the index holds, current or not; 0 where it cannot be told."""
    try:
        return int(str(store.get_json(CURRENT).get("vectors", 0)))
    except DamagedFileError:
        return 0


def load_index(store: Store) -> SearchIndex:
    """Load the index.

    Raises:
        InputError: the store has none yet.
        DamagedFileError: its files are not as they were written.
    """
    index = _load(store)
    if index is None:
        raise InputError(f"{store.location}: holds no index yet; `pseudolabel run` makes it")
    return index


def index_files(store: Store) -> dict[str, str]:
    """Return the files of the index in force and the SHA-256 that each was written with."""
    pointer = store.get_json(CURRENT)
    if not pointer:
        return {}
    return {f"index/{pointer['name']}.{kind}": str(pointer[kind]) for kind in _KINDS}


def _load(store: Store) -> SearchIndex | None:
    return store.steadily(lambda: _load_once(store))


def _load_once(store: Store) -> SearchIndex | None:
    pointer, held = store.get_json(CURRENT), []
    if not pointer:
        return None
    for name, checksum in index_files(store).items():
        data = store.get(name)
        if data is None:
            raise FileNotFoundError(name)  # replaced by a newer one meanwhile
        if hashlib.sha256(data).hexdigest() != checksum:
            raise store.damaged(name, "it does not match its checksum")
        held.append(data)
    index = faiss.deserialize_index(np.frombuffer(held[0], np.uint8))
    ids = pl.read_parquet(BytesIO(held[1]))["image_id"].to_list()
    return SearchIndex(index, ids, [str(part) for part in _listed(pointer["parts"])])


def save_index(store: Store, index: SearchIndex) -> None:
    """Write an index of the vectors that the store holds now, and turn the pointer to it."""
    name = store.state("embeddings")
    buffer = BytesIO()
    pl.DataFrame({"image_id": index.ids}, schema={"image_id": pl.String}).write_parquet(buffer)
    contents = [faiss.serialize_index(index._index).data, buffer.getbuffer()]
    pointer: dict[str, object] = {
        "name": name,
        "parts": index.parts,
        "vectors": len(index),
    }
    for kind, content in zip(_KINDS, contents, strict=True):
        store.put(f"index/{name}.{kind}", content)
        pointer[kind] = hashlib.sha256(content).hexdigest()
    store.put_json(CURRENT, pointer)
    for file in store.folder.names("index"):
        if file.rpartition(".")[0] not in (name, "current"):
            store.delete(f"index/{file}")


def _all_there(held: list[str], parts: list[str]) -> bool:
    """Tell whether all that the index holds is still in the store, be it merged."""
    missing = uncovered(parts, held)
    return name_sum(held) == (name_sum(parts) - name_sum(missing)) % 2**64


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []
