"""Look: files of a plan in; each read, hashed and decoded by threads, out in the order of the plan.

A bad file becomes a reason; it never takes others with it.
"""

from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from pipeline.clock import Clock
from pipeline.images.decoding import Picture, Refusal, image_id
from pipeline.images.paths import name_of
from pipeline.images.reading import Planned, Side, Waiting, read_planned, read_side
from pipeline.images.undecoded import Undecoded

T = TypeVar("T")
R = TypeVar("R")

# A whole file and its name: `Decode`, or one that leaves some pictures for later.
DecodeOrLeave = Callable[[bytes, str], Picture | Undecoded | Refusal]


@dataclass(frozen=True)
class Seen:
    """One file after looking at it."""

    image_id: str | None
    status: str  # as in FILES, or waiting
    reason: str | None = None
    picture: Picture | Undecoded | None = None  # of bytes that were not known
    side: Side | None = None


def look_through(
    rows: Iterable[Planned],
    known: Container[str],
    decode: DecodeOrLeave,
    *,
    threads: int,
    window: Callable[[], int],
    clock: Clock,
) -> Generator[Seen]:
    """Read, hash and decode files, in order.

    Args:
        rows: the files; taken one by one as they are needed.
        known: ids of images that need no decoding; may grow meanwhile.
        decode: makes pixels, leaves that for later or says why not; called from many threads.
        threads: that read, and wait for pixels.
        window: how many files may be under way or wait to be taken; bounds memory.
        clock: sums up `reading` and `decoding`, over all threads.
    """
    with readers(threads) as pool:
        yield from in_order(pool, lambda row: _look(row, known, decode, clock), rows, window)


def _look(row: Planned, known: Container[str], decode: DecodeOrLeave, clock: Clock) -> Seen:
    with clock("reading"):
        data, side = read_planned(row), read_side(row)
        for trouble in (data, side):
            if isinstance(trouble, Waiting):
                return Seen(None, "waiting", trouble.reason)
            if isinstance(trouble, Refusal):
                return Seen(None, trouble.status, trouble.reason)
        assert isinstance(data, bytes) and not isinstance(side, Waiting | Refusal)  # just tested
        identity = image_id(data)
    if identity in known:
        return Seen(identity, "ok", side=side)
    with clock("decoding"):
        outcome = decode(data, name_of(row.path))
    if isinstance(outcome, Refusal):
        return Seen(identity, outcome.status, outcome.reason)
    return Seen(identity, "ok", picture=outcome, side=side)


@contextmanager
def readers(count: int) -> Iterator[Executor]:
    """Run threads that leave undone, at Ctrl-C, what they had not begun."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="read")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def in_order(
    pool: Executor, function: Callable[[T], R], items: Iterable[T], window: Callable[[], int]
) -> Generator[R]:
    """Map over a pool, results in the order of items, at most `window` of them under way."""
    under_way: deque[Future[R]] = deque()
    for item in items:
        while len(under_way) >= window():
            yield under_way.popleft().result()
        under_way.append(pool.submit(function, item))
    while under_way:
        yield under_way.popleft().result()
