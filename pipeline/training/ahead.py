"""Work that runs ahead of whoever needs its results, on a thread of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

T = TypeVar("T")
Put = Callable[[T], None]

_LOOK_UP = 0.1  # seconds after which one that waits looks whether it is still wanted


class _StoppedError(Exception):
    """Nobody wants what is made here any more."""


class _Line(Generic[T]):
    """A bounded queue between two threads; its maker's error comes out at its end."""

    def __init__(self, depth: int) -> None:
        self._queue: Queue[tuple[T | None, bool]] = Queue(depth)
        self._stop = Event()
        self._error: BaseException | None = None

    def make(self, work: Callable[[Put[T]], None]) -> None:
        try:
            work(lambda item: self._put((item, False)))
            self._put((None, True))
        except _StoppedError:
            return
        except BaseException as error:
            self._error = error
            self.stop()

    def items(self) -> Iterator[T]:
        while True:
            try:
                item, end = self._queue.get(timeout=_LOOK_UP)
            except Empty:
                if self._error is not None:
                    raise self._error from None
                continue
            if end:
                return
            yield item  # type: ignore[misc]  # None only at the end

    def stop(self) -> None:
        self._stop.set()

    def _put(self, item: tuple[T | None, bool]) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_LOOK_UP)
            except Full:
                continue
            return
        raise _StoppedError


@contextmanager
def ahead(work: Callable[[Put[T]], None], depth: int) -> Iterator[Iterator[T]]:
    """Give what `work` puts, while it works on; at the end of the block it is stopped.

    Args:
        work: called on a thread of its own with a function that takes one result; what it raises
            is raised to whoever takes the results, after those that came before.
        depth: results that may wait.
    """
    line: _Line[T] = _Line(depth)
    maker = Thread(target=line.make, args=(work,), name="ahead", daemon=True)
    maker.start()
    try:
        yield line.items()
    finally:
        line.stop()
        maker.join()
