"""Embedding columns: matrices of unit vectors to Parquet and back.

Shapes: N images, D embedding dimensions.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.arrays import Halves
from pipeline.parts import uncovered
from pipeline.store import Store

R = TypeVar("R")

_BATCH_ROWS = 2048  # 2 MB of vectors of 512: decoded and used while they are in a core's cache
_BUFFER_BYTES = 8 << 20  # a request each, where the store lies in a bucket


def to_column(vectors: Halves) -> pa.FixedSizeListArray:
    """Return (N, D) float16 rows as a FixedSizeList<float16>[D] column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def read_vectors(store: Store, part: str) -> tuple[list[str], Halves]:
    """Return the image ids of a part of `embeddings` and their (N, D) vectors.

    Raises:
        DamagedFileError: the part is not as it was written.
    """
    table = store.read_part("embeddings", part, ["image_id", "embedding"])
    column = table["embedding"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return table["image_id"].to_pylist(), flat.reshape(len(table), column.type.list_size)


def iterate_vectors(store: Store) -> Iterator[tuple[str, list[str], Halves]]:
    """Yield (part, image ids, vectors) of every part; an id that two parts hold comes once.

    A part that is merged into another one meanwhile is found there.
    """
    seen: set[str] = set()
    done: list[str] = []
    waiting = deque(store.parts("embeddings"))
    while waiting:
        part = waiting.popleft()
        try:
            ids, vectors = read_vectors(store, part)
        except FileNotFoundError:
            waiting = deque(uncovered(store.parts("embeddings"), done))
            continue
        done.append(part)
        fresh = [row for row, image_id in enumerate(ids) if image_id not in seen]
        if len(fresh) < len(ids):
            ids, vectors = [ids[row] for row in fresh], vectors[np.array(fresh, dtype=np.int64)]
        seen.update(ids)
        yield part, ids, vectors


def stream_vectors(
    store: Store, part: str, take: Callable[[Iterator[tuple[pa.Array, Halves]]], R]
) -> R:
    """Return what `take` makes of a part of `embeddings`, read as it goes along.

    Args:
        store: the store to read from.
        part: of `embeddings`.
        take: given the image ids of a few rows, an array of strings, and their (n, D) vectors, and
            so on to the end. It is called afresh after trouble on the way.

    Raises:
        DamagedFileError: the part is not as it was written.
    """

    def batches(held: pq.ParquetFile) -> Iterator[tuple[pa.Array, Halves]]:
        for batch in _columns(held, "image_id", "embedding"):
            yield batch.column(0), _matrix(batch.column(1))

    return store.look_into("embeddings", part, lambda held: take(batches(held)), _BUFFER_BYTES)


def stream_rows(store: Store, part: str, take: Callable[[Iterator[Halves]], R]) -> R:
    """Return what `take` makes of the vectors of a part alone; else as `stream_vectors`."""

    def batches(held: pq.ParquetFile) -> Iterator[Halves]:
        for batch in _columns(held, "embedding"):
            yield _matrix(batch.column(0))

    return store.look_into("embeddings", part, lambda held: take(batches(held)), _BUFFER_BYTES)


def _columns(held: pq.ParquetFile, *names: str) -> Iterator[pa.RecordBatch]:
    # Columns are decoded one after the other: two would wait for each other's pages.
    yield from held.iter_batches(_BATCH_ROWS, columns=list(names), use_threads=False)


def _matrix(column: pa.FixedSizeListArray) -> Halves:
    flat: Halves = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), column.type.list_size)
