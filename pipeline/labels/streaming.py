"""Parts of vectors in, a table for each out: read, worked on by every core, and written at once.

This thread reads, a pool works on the batches, one more thread writes. What is read and not yet
worked on is bounded, and so is what is not yet written: memory does not grow with the store.
Shapes: n images of a batch, D embedding dimensions.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa
from threadpoolctl import threadpool_limits

from pipeline.arrays import Halves
from pipeline.cores import cores
from pipeline.store import Store
from pipeline.vectors import stream_vectors

T = TypeVar("T")
Work = Callable[[pa.Array, Halves], pa.Table]

_BATCHES_EACH = 2  # read and waiting, per core
_UNWRITTEN = 2  # parts


def stream_parts(
    store: Store,
    parts: Sequence[str],
    work: Work,
    finish: Callable[[str, list[pa.Table]], T],
    on_progress: Callable[[int], None],
) -> list[T]:
    """Work on every vector of some parts of `embeddings`; return what `finish` made of each part.

    Args:
        store: the store to read from.
        parts: of `embeddings`.
        work: (image ids, vectors (n, D)) -> rows; called on many threads at a time.
        finish: (part, its rows in order); called on one thread, part by part.
        on_progress: told how many images were worked on since it was last told.

    Raises:
        DamagedFileError: a part is not as it was written.
        Exception: what `work` or `finish` raise. Parts before may be finished by then, and one or
            two after.
    """
    count = cores()
    finished: list[Future[T]] = []
    # Two cores that each multiply a matrix of their own do not wait for one another.
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(count, thread_name_prefix="work") as workers,
        ThreadPoolExecutor(1, thread_name_prefix="finish") as finisher,
    ):
        line = _Line(workers, work, _BATCHES_EACH * count, on_progress)
        for part in parts:
            results = stream_vectors(store, part, line.put_all)
            finished.append(finisher.submit(_finish, finish, part, results))
            if len(finished) > _UNWRITTEN:
                finished[-1 - _UNWRITTEN].result()
        line.empty()
        return [each.result() for each in finished]


class _Line:
    """Batches that wait to be worked on, a bounded number of them."""

    def __init__(
        self,
        workers: ThreadPoolExecutor,
        work: Work,
        length: int,
        on_progress: Callable[[int], None],
    ) -> None:
        self._workers, self._work, self._length = workers, work, length
        self._on_progress = on_progress
        self._waiting: deque[tuple[Future[pa.Table], int]] = deque()

    def put_all(self, batches: Iterator[tuple[pa.Array, Halves]]) -> list[Future[pa.Table]]:
        """Put every batch in line; return the results to come, in their order."""
        results = []
        for ids, vectors in batches:
            results.append(self._workers.submit(self._work, ids, vectors))
            self._waiting.append((results[-1], len(ids)))
            while len(self._waiting) > self._length:
                self._take_first()
        return results

    def empty(self) -> None:
        """Wait until every batch was worked on."""
        while self._waiting:
            self._take_first()

    def _take_first(self) -> None:
        result, images = self._waiting.popleft()
        result.result()
        self._on_progress(images)


def _finish(
    finish: Callable[[str, list[pa.Table]], T], part: str, results: list[Future[pa.Table]]
) -> T:
    return finish(part, [each.result() for each in results])
