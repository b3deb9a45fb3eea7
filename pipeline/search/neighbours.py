"""Neighbours: for each image of the store its nearest ones, searched once and kept.

Table `neighbours/<generation>`, a part for each part of `embeddings`, and beside it `recall.json`:
what share of the true neighbours was found. Who relabels, or looks for near-duplicates, reads it
instead of searching again. A row is true for the images that were there when it was searched; later
ones may be nearer, so all are searched anew when the store has doubled: that is a generation.

Shapes: N images in the index, n of a batch, K neighbours, D embedding dimensions.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipeline.arrays import Bools, Floats, Ints, Shorts
from pipeline.labels.refinement import NEIGHBOURS, generation
from pipeline.parts import uncovered
from pipeline.search.cells import SAMPLE, keep_cells, load_cells, tuned
from pipeline.search.id_table import IdTable
from pipeline.search.index import SearchIndex
from pipeline.search.scratch import scratch
from pipeline.search.self_join import Everybody, Plan, nearest_others
from pipeline.store import Store
from pipeline.tables import NEIGHBOURS as SCHEMA

_TOGETHER = 1 << 17  # images searched before their parts are written: what a crash can cost
_EXACT_PRODUCTS = 1e10  # queries x images, some 40 s; more are searched in cells
_EXACT_BYTES = 1 << 30
LISTS = 1 << 14  # whose neighbours' ids are looked up at once
_ROUNDING = 1e-6  # of a cosine, added up from the one end or the other


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
    rows_of = id_table(store, index)
    waiting = {
        part: _known(rows_of, store.read("embeddings", ["image_id"], [part])["image_id"].to_arrow())
        for part in missing
    }
    del rows_of
    queries = np.concatenate(list(waiting.values()))
    plan, recall = _plan(store, index, queries)
    ids = pa.array(index.ids, pa.string())
    for parts in _together(waiting):
        asked = np.concatenate([waiting[part] for part in parts])
        found = nearest_others(index, asked, NEIGHBOURS, plan, on_progress)
        _record(store, table, len(asked), recall)
        at = 0
        for part in parts:
            end = at + len(waiting[part])
            rows = _as_table(ids, asked[at:end], found.rows[at:end], found.cosines[at:end])
            store.write_part(table, part, rows, store.fingerprint("embeddings", part) or "")
            at = end
    for name in store.folder.sizes():
        if name.startswith("neighbours/") and not name.startswith(f"{table}/"):
            store.delete(name)
    return len(queries)


def measured_recall(store: Store, images: int) -> float | None:
    """Return what share of the true neighbours the table of a store of so many images holds.

    The mean over all searches, each as it was measured on a sample of its own: 1 where they were
    exact; null where nothing was searched.
    """
    told = store.get_json(f"{neighbours_table(images)}/recall.json")
    return float(str(told["recall"])) if told else None


class Neighbourhood:
    """Who is near whom, as rows of an index; what `labels.refinement` asks for."""

    def __init__(self, index: SearchIndex, table: IdTable, rows: Shorts, cosines: Floats) -> None:
        """Take what was found.

        Args:
            index: N images.
            table: their ids.
            rows: (N, K) the neighbours of each row, nearest first; -1: none.
            cosines: (N, K); -inf: none.
        """
        self._index, self._table, self._rows, self._cosines = index, table, rows, cosines

    def __len__(self) -> int:
        """Return N."""
        return len(self._index)

    def rows_of(self, ids: Sequence[str]) -> Ints:
        """Return the rows of some images.

        Raises:
            KeyError: the index does not hold one.
        """
        return _known(self._table, pa.array(ids, pa.string()))

    def sample(self, count: int) -> Ints:
        """Return the rows of that many images, or of all: the same whatever their order."""
        return self._table.first(count)  # ids are hashes

    def vectors(self, rows: Ints) -> Floats:
        """Return (len(rows), D) vectors."""
        return self._index.vectors(rows)

    def of(self, rows: Ints) -> tuple[Ints, Floats, Bools]:
        """Return neighbours (n, K), cosines (n, K; -inf: none) and who is mutual (n, K)."""
        near, cosines = self._rows[rows].astype(np.int64), self._cosines[rows]
        # An image that lies no farther than another's last neighbour is among its neighbours.
        reach = self._cosines[near, -1] - _ROUNDING  # -inf for who has fewer than K
        return near, cosines, (near >= 0) & (cosines >= reach)


def load_neighbourhood(store: Store, index: SearchIndex) -> Neighbourhood:
    """Read the table into files that are mapped; images that it does not hold have no neighbours.

    Raises:
        DamagedFileError: a part is not as it was written.
        OSError: the disk is full.
    """
    table = id_table(store, index)
    rows = scratch(store, (len(index), NEIGHBOURS), np.int32(-1))
    cosines = scratch(store, (len(index), NEIGHBOURS), np.float32(-np.inf))
    name = neighbours_table(len(index))
    for part in store.parts(name):
        for lists in store.read_part(name, part).to_batches(LISTS):
            _place(lists, table, rows, cosines)
    return Neighbourhood(index, table, rows, cosines)


def id_table(store: Store, index: SearchIndex) -> IdTable:
    """Return the rows of all ids of an index."""
    ids = (segment.read_ids().to_arrow() for segment in index.exact.segments)
    return IdTable(store, ids, len(index))


def _known(table: IdTable, ids: pa.Array) -> Ints:
    """Return the rows of some ids; raises KeyError over one that is not there."""
    rows = table.rows(ids)
    if len(rows) and rows.min() < 0:
        raise KeyError(ids[int(rows.argmin())].as_py())
    return rows


def _place(lists: pa.RecordBatch, table: IdTable, rows: Shorts, cosines: Floats) -> None:
    """Put rows of the table where they belong, in place; ids that the index does not hold go."""
    near, lengths = lists["neighbours"], lists["neighbours"].value_lengths().to_numpy()
    whose = np.repeat(table.rows(lists["image_id"]), lengths)
    places = np.arange(len(whose)) - np.repeat(lengths.cumsum() - lengths, lengths)
    found = table.rows(near.flatten())
    known = (whose >= 0) & (found >= 0)
    at = whose[known], places[known]
    rows[at] = found[known]
    cosines[at] = lists["cosines"].flatten().to_numpy()[known]


def is_small(index: SearchIndex, queries: int) -> bool:
    """Tell whether so many images are compared with all others, for that is quick enough."""
    size = len(index) * index.dimension * 4
    few = queries * len(index) <= _EXACT_PRODUCTS and size <= _EXACT_BYTES
    return few or queries <= 2 * SAMPLE  # so many are looked at to measure cells by, anyway


def _plan(store: Store, index: SearchIndex, queries: Ints) -> tuple[Plan, float]:
    """Return who is to be compared with whom, and what share of the neighbours that finds."""
    if is_small(index, len(queries)):
        return Everybody(index), 1.0
    cells, recall = tuned(load_cells(store, index, index.ids), queries, NEIGHBOURS)
    keep_cells(store, cells, index.ids)
    return cells, recall


def _together(waiting: dict[str, Ints]) -> Iterator[list[str]]:
    """Yield parts to be searched at once: the more images, the fewer times all are decoded."""
    parts: list[str] = []
    room = _TOGETHER
    for part, rows in waiting.items():
        if parts and len(rows) > room:
            yield parts
            parts, room = [], _TOGETHER
        parts.append(part)
        room -= len(rows)
    yield parts


def _record(store: Store, table: str, images: int, recall: float) -> None:
    """Put a search among those whose recall is kept."""
    name = f"{table}/recall.json"
    told = store.get_json(name)
    before, mean = int(str(told.get("images", 0))), float(str(told.get("recall", 1.0)))
    both = before + images
    mean = (mean * before + recall * images) / both if both else 1.0
    store.put_json(name, {"images": both, "recall": mean})


def _as_table(ids: pa.Array, asked: Ints, rows: Ints, cosines: Floats) -> pa.Table:
    """Return rows of the table, of images (n,) with neighbours (n, K)."""
    kept = rows >= 0
    offsets = np.concatenate([[0], kept.sum(axis=1).cumsum()]).astype(np.int32)
    lists = [ids.take(pa.array(rows[kept])), pa.array(cosines[kept], pa.float32())]
    columns = [pa.ListArray.from_arrays(pa.array(offsets), values) for values in lists]
    return pa.table([ids.take(pa.array(asked)), *columns], schema=SCHEMA)
