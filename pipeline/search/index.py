"""The search index over the store's vectors. It is a cache: Parquet is the truth it is built from.

Exact vectors lie in `segments`, an approximate index (`layered`) is laid on top where the memory
asks for one, and a `pointer` names the files in force.
Shapes: N images in the index.
"""

import logging
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from pipeline.arrays import Bools, Halves
from pipeline.catalog import present_images
from pipeline.errors import DamagedFileError, InputError
from pipeline.parts import name_sum, uncovered
from pipeline.search.choosing import DEFAULTS, IndexSettings, choose
from pipeline.search.exact import ExactRows, Neighbours
from pipeline.search.facts import CURRENT
from pipeline.search.pointer import (
    Pointer,
    encoder_digest,
    index_files,
    indexed,
    is_current,
    read_pointer,
    write_pointer,
)
from pipeline.search.search_index import SearchIndex
from pipeline.search.segments import merged, read_segment, write_segment
from pipeline.search.upkeep import keep_up, read_layer
from pipeline.store import Store
from pipeline.vectors import read_vectors

__all__ = ["CURRENT", "Neighbours", "SearchIndex", "index_files", "indexed", "is_current"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexSummary:
    """What one update of the index did."""

    vectors: int  # in the index now
    added: int  # by this update


def update_index(store: Store, settings: IndexSettings = DEFAULTS) -> IndexSummary:
    """Bring the index up to the store: new parts are added, and where parts went it is rebuilt.

    Args:
        store: the store; its lock must be held.
        settings: the kind, memory and recall asked for.
    """
    identity = store.identity()
    if identity is None:
        return IndexSummary(vectors=0, added=0)
    parts = store.parts("embeddings")
    try:
        pointer, index = read_pointer(store), _load(store)
    except DamagedFileError as error:
        logger.warning("%s; it is built anew", error)
        pointer = index = None
    if index is None or pointer is None or not _all_there(index.parts, parts):
        pointer, index = None, SearchIndex.empty(identity.dimension)
    before, missing = len(index), uncovered(parts, index.parts)
    for part in missing:
        _append(index, *read_vectors(store, part))
        _write_full(store, index.exact)
    if missing:  # else merged parts may have other names, and the same vectors
        index.parts = parts
    if len(index):
        save_index(store, index, settings, pointer)
    return IndexSummary(vectors=len(index), added=len(index) - before)


def load_index(
    store: Store, earlier: SearchIndex | None = None, *, exact: bool = False
) -> SearchIndex:
    """Load the index.

    Args:
        store: the store.
        earlier: one loaded before; files that it holds already are not read again.
        exact: for who asks for vectors by row: an approximate index, which lies in memory, is left
            on the disk, and searches compare all rows.

    Raises:
        InputError: the store has none yet.
        DamagedFileError: its files are not as they were written.
    """
    index = _load(store, earlier, exact=exact)
    if index is None:
        raise InputError(f"{store.location}: holds no index yet; `pseudolabel run` makes it")
    return index


def save_index(
    store: Store,
    index: SearchIndex,
    settings: IndexSettings = DEFAULTS,
    before: Pointer | None = None,
) -> None:
    """Write an index of the vectors that the store holds now, and turn the pointer to it.

    Args:
        store: the store; its lock must be held.
        index: its first rows are those of the index in force.
        settings: the kind, memory and recall asked for.
        before: the pointer to the index in force, whose rows it has; None: nothing of it is used.
    """
    index.exact.segments = merged(index.exact.segments)
    segments = [write_segment(store, segment) for segment in index.exact.segments]
    layer = before.layer if before else None
    choice = choose(len(index), len(index), index.dimension, settings)
    if choice.kind != "flat":
        live = _live(store, index)
        choice = choose(len(index), int(live.sum()), index.dimension, settings)
    if choice.kind == "flat":
        layer = None
    else:
        layer = keep_up(store, index.exact, live, choice, settings, layer)
    pointer = Pointer(
        name=store.state("embeddings"),
        encoder=encoder_digest(store.identity()),
        parts=index.parts,
        vectors=len(index),
        segments=segments,
        kind=choice.kind,
        reason=choice.reason,
        asked=asdict(settings),
        layer=layer,
    )
    if before is None or before.kind != choice.kind:
        logger.info("index: %s", choice.reason)
    if pointer != before:
        write_pointer(store, pointer)


def _live(store: Store, index: SearchIndex) -> Bools:
    """Mark the rows whose images are there; all where no file was ever recorded."""
    if not store.parts("files"):
        return np.ones(len(index), np.bool_)
    there = present_images(store)["image_id"]
    return index.exact.ids.is_in(there.implode()).to_numpy()


def _load(
    store: Store, earlier: SearchIndex | None = None, *, exact: bool = False
) -> SearchIndex | None:
    return store.steadily(lambda: _load_once(store, earlier, alone=exact))


def _load_once(store: Store, earlier: SearchIndex | None, *, alone: bool) -> SearchIndex | None:
    pointer, identity = read_pointer(store), store.identity()
    if pointer is None or identity is None:
        return None
    open_already = {segment.held: segment for segment in earlier.exact.segments} if earlier else {}
    segments = [open_already.get(held) or read_segment(store, held) for held in pointer.segments]
    exact = ExactRows(identity.dimension, segments)
    layer = read_layer(store, exact, pointer.layer) if pointer.layer and not alone else None
    return SearchIndex(exact, pointer.parts, layer)


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
