"""Neighbours for the commands that only look at them."""

from flows.console import progress_shown
from flows.progress import listener
from pipeline.locking import writer_lock
from pipeline.parts import uncovered
from pipeline.search.index import SearchIndex, load_index
from pipeline.search.neighbours import neighbours_table, update_neighbours
from pipeline.store import Store


def with_neighbours(store: Store, *, wait: bool) -> SearchIndex:
    """Return the index, after a search of the neighbours that are missing.

    Args:
        store: it is written to, and so locked, only where some are missing.
        wait: for another writer to finish.

    Raises:
        InputError: the store has no index yet.
        StoreBusyError: some are missing, and another writer holds the store.
    """
    index = load_index(store)
    if uncovered(store.parts("embeddings"), store.parts(neighbours_table(len(index)))):
        with writer_lock(store, wait=wait), progress_shown("neighbours"):
            update_neighbours(store, index, lambda images: listener.get().advance(images, 0))
    return index
