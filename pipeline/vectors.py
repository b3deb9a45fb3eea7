"""Embedding columns: matrices of unit vectors to Parquet and back.

Shapes: N images, D embedding dimensions.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipeline.arrays import Halves
from pipeline.parts import uncovered
from pipeline.store import Store


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
