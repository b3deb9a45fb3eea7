"""Neighbours: for each image of the store its nearest ones, searched once and kept.

Table `neighbours/<generation>`, a part for each part of `embeddings`. Who relabels reads it instead
of searching again. A row is true for the images that were there when it was searched; later ones
may be nearer, so all are searched anew when the store has doubled: that is a generation.

Shapes: N images in the index, n of a batch, K neighbours, D embedding dimensions.
"""

from collections.abc import Callable, Sequence

import faiss
import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.arrays import Bools, Floats, Ints
from pipeline.labels.refinement import NEIGHBOURS, generation
from pipeline.parts import uncovered
from pipeline.search.index import Neighbours as Found
from pipeline.search.index import SearchIndex
from pipeline.store import Store
from pipeline.tables import NEIGHBOURS as SCHEMA

_BLOCK = 2048  # queries at a time
_FEW = 100  # queries, for which nothing is built
_EXACT_PRODUCTS = 1e10  # queries x images, some 40 s; more are searched in cells
_EXACT_BYTES = 1 << 30
_ROUNDING = 1e-6  # of a cosine, added up from the one end or the other
_PROBES = 16  # cells of some 1,000 to 2,000 that are looked at for an image


def neighbours_table(images: int) -> str:
    """Return the name of the table for a store of so many images."""
    return f"neighbours/{generation(images)}"


def update_neighbours(
    store: Store, index: SearchIndex, on_progress: Callable[[int], None] = lambda _: None
) -> int:
    """Search the neighbours of each image that has none yet; return of how many.

    Args:
        store: the store; its lock must be held.
        index: of all its vectors.
        on_progress: told how many images were searched since it was last told.
    """
    table = neighbours_table(len(index))
    missing = uncovered(store.parts("embeddings"), store.parts(table))
    if not missing:
        return 0
    waiting = {part: store.read("embeddings", ["image_id"], [part]) for part in missing}
    queries = sum(map(len, waiting.values()))
    search = _searcher(index, queries)
    row_of = {image_id: row for row, image_id in enumerate(index.ids)}
    ids = pa.array(index.ids, pa.string())
    for part, images in waiting.items():
        rows = np.array([row_of[image_id] for image_id in images["image_id"]], np.int64)
        tables = [SCHEMA.empty_table()]
        for at in range(0, len(rows), _BLOCK):
            block = rows[at : at + _BLOCK]
            tables.append(_as_table(ids, block, search(index.vectors(block))))
            on_progress(len(block))
        made_of = store.fingerprint("embeddings", part) or ""
        store.write_part(table, part, pa.concat_tables(tables), made_of)
    for name in store.folder.sizes():
        if name.startswith("neighbours/") and not name.startswith(f"{table}/"):
            store.delete(name)
    return queries


class Neighbourhood:
    """Who is near whom, as rows of an index; what `labels.refinement` asks for."""

    def __init__(self, index: SearchIndex, rows: Ints, cosines: Floats) -> None:
        """Take what was found.

        Args:
            index: N images.
            rows: (N, K) the neighbours of each row, nearest first; -1: none.
            cosines: (N, K); -inf: none.
        """
        self._index, self._rows, self._cosines = index, rows, cosines
        # An image that lies no farther than another's last neighbour is among its neighbours.
        self._reach = cosines[:, -1] - _ROUNDING  # -inf for who has fewer than K
        self._row_of = {image_id: row for row, image_id in enumerate(index.ids)}

    def __len__(self) -> int:
        """Return N."""
        return len(self._index)

    def rows_of(self, ids: Sequence[str]) -> Ints:
        """Return the rows of some images."""
        return np.array([self._row_of[image_id] for image_id in ids], np.int64)

    def sample(self, count: int) -> Ints:
        """Return the rows of that many images, or of all: the same whatever their order."""
        order = np.argsort(np.array(self._index.ids, "S32"), kind="stable")  # ids are hashes
        return np.sort(order[:count])

    def vectors(self, rows: Ints) -> Floats:
        """Return (len(rows), D) vectors."""
        return self._index.vectors(rows)

    def of(self, rows: Ints) -> tuple[Ints, Floats, Bools]:
        """Return neighbours (n, K), cosines (n, K; -inf: none) and who is mutual (n, K)."""
        near, cosines = self._rows[rows], self._cosines[rows]
        mutual = (near >= 0) & (cosines >= self._reach[near])
        return near, cosines, mutual


def load_neighbourhood(store: Store, index: SearchIndex) -> Neighbourhood:
    """Read the table; images that it does not hold have no neighbours."""
    rows = np.full((len(index), NEIGHBOURS), -1, np.int64)
    cosines = np.full((len(index), NEIGHBOURS), -np.inf, np.float32)
    numbers = pl.DataFrame({"image_id": index.ids, "row": np.arange(len(index), dtype=np.int32)})
    table = neighbours_table(len(index))
    for part in store.parts(table):
        held = store.read(table, parts=[part])
        long = (
            held.with_columns(place=pl.int_ranges(0, pl.col("neighbours").list.len()))
            .explode("neighbours", "cosines", "place")
            .join(numbers, on="image_id", how="inner")
            .join(numbers.rename({"image_id": "neighbours", "row": "near"}), on="neighbours")
        )
        rows[long["row"], long["place"]] = long["near"]
        cosines[long["row"], long["place"]] = long["cosines"]
    return Neighbourhood(index, rows, cosines)


def _searcher(index: SearchIndex, queries: int) -> Callable[[Floats], Found]:
    """Return what finds the K + 1 nearest of some vectors: exactly, or in cells where that is long.

    An image is its own nearest neighbour, hence one more.
    """
    size = len(index) * index.dimension * 4
    if queries <= _FEW:
        return lambda vectors: index.search(vectors, NEIGHBOURS + 1)
    if queries * len(index) <= _EXACT_PRODUCTS and size <= _EXACT_BYTES:
        # In single precision it is a matrix product: 14 times as fast as decoding half precision.
        held: faiss.Index = faiss.IndexFlatIP(index.dimension)
        held.add(index.vectors(np.arange(len(index))))
    else:
        held = _cells(index)

    def search(vectors: Floats) -> Found:
        cosines, rows = held.search(np.ascontiguousarray(vectors), NEIGHBOURS + 1)
        return Found(rows=rows, cosines=np.where(rows < 0, -np.inf, cosines))

    return search


def _cells(index: SearchIndex) -> faiss.Index:
    """Divide the images among cells by their nearest centroid (an inverted file)."""
    count, dimension = len(index), index.dimension
    number = int(2 * count**0.5)
    coarse = faiss.IndexFlatIP(dimension)
    half = faiss.ScalarQuantizer.QT_fp16
    cells = faiss.IndexIVFScalarQuantizer(
        coarse, dimension, number, half, faiss.METRIC_INNER_PRODUCT, False
    )
    sample = np.random.default_rng(0).choice(count, min(count, 64 * number), replace=False)
    cells.train(index.vectors(np.sort(sample)))
    for at in range(0, count, 16 * _BLOCK):
        cells.add(index.vectors(np.arange(at, min(count, at + 16 * _BLOCK))))
    cells.nprobe = _PROBES
    return cells


def _as_table(ids: pa.Array, block: Ints, found: Found) -> pa.Table:
    """Leave each image out of its own neighbours, and keep K of the others."""
    other = (found.rows != block[:, None]) & (found.rows >= 0)
    kept = other & (other.cumsum(axis=1) <= NEIGHBOURS)
    offsets = np.concatenate([[0], kept.sum(axis=1).cumsum()]).astype(np.int32)
    lists = [ids.take(pa.array(found.rows[kept])), pa.array(found.cosines[kept], pa.float32())]
    columns = [pa.ListArray.from_arrays(pa.array(offsets), values) for values in lists]
    return pa.table([ids.take(pa.array(block)), *columns], schema=SCHEMA)
