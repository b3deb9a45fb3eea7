"""Id table: which row of an index an image id has, told by files that are mapped.

A dictionary would take some 150 bytes of memory an image; this takes 24 bytes of the disk. It is a
sorted array of words: the leading bits of a word are those of its id, mixed, the others are the
row, under which the whole id is found to make sure.

Shapes: N images, n asked for.
"""

from binascii import unhexlify
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.arrays import Ints
from pipeline.search.scratch import scratch
from pipeline.store import Store

Words = npt.NDArray[np.uint64]

_DIGITS = 32  # of an id, hexadecimal
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / 1.618: multiples of it lie far apart
_BLOCK = 1 << 16  # images looked at together


class IdTable:
    """The rows of image ids."""

    def __init__(self, store: Store, ids: Iterable[pa.Array], count: int) -> None:
        """Make the table; of memory it takes what some of the ids take.

        Args:
            store: where its files may lie.
            ids: of all images, some at a time, in the order of their rows.
            count: N.

        Raises:
            ValueError: an id is not 32 hex digits.
            OSError: the disk is full.
        """
        nothing = np.uint64(0)
        self._high, self._low, self._words = (scratch(store, (count,), nothing) for _ in range(3))
        self._row_bits = np.uint64((1 << count.bit_length()) - 1)
        start = 0
        for some in ids:
            rows = slice(start, start + len(some))
            high, low = _halves(some)
            self._high[rows], self._low[rows] = high, low
            numbers = np.arange(start, rows.stop, dtype=np.uint64)
            self._words[rows] = self._leading(high, low) | numbers
            start = rows.stop
        self._words.sort()  # in place

    def __len__(self) -> int:
        """Return N."""
        return len(self._words)

    def rows(self, ids: pa.Array) -> Ints:
        """Return the rows (n,) of some ids; -1: not there; where several have it, the first.

        Raises:
            ValueError: an id is not 32 hex digits.
        """
        high, low = _halves(ids)
        wanted = self._leading(high, low)
        left = np.argsort(wanted)  # asked in this order, they go through the table once
        at = np.searchsorted(self._words, wanted[left])
        found = np.full(len(ids), -1, np.int64)
        while len(left):  # a second time only for ids that begin alike, mixed
            inside = at < len(self)
            left, at = left[inside], at[inside]
            words = self._words[at]
            rows = (words & self._row_bits).astype(np.int64)
            alike = words - rows.astype(np.uint64) == wanted[left]
            same = alike & (self._high[rows] == high[left]) & (self._low[rows] == low[left])
            found[left[same]] = rows[same]
            next_ = alike & ~same
            left, at = left[next_], at[next_] + 1
        return found

    def first(self, count: int) -> Ints:
        """Return the rows of that many ids, or of all: of the smallest ids, in order of rows."""
        best = np.empty(0, np.int64)
        for start in range(0, len(self), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(self)))
            rows = np.concatenate([best, rows])
            best = rows[np.lexsort((self._low[rows], self._high[rows]))[:count]]
        return np.sort(best)

    def _leading(self, high: Words, low: Words) -> Words:
        """Return the leading bits of ids; ids made for a test are mixed as well as real ones."""
        leading: Words = (high + low * _GOLDEN) & ~self._row_bits
        return leading


def _halves(ids: pa.Array) -> tuple[Words, Words]:
    """Return ids (n,) as numbers: the first 16 digits and the last 16."""
    digits = ids.cast(pa.binary(_DIGITS))  # refuses an id of another length
    start = digits.offset * _DIGITS
    text = memoryview(digits.buffers()[1] or b"")[start : start + len(ids) * _DIGITS]
    halves = np.frombuffer(unhexlify(text), ">u8").reshape(-1, 2)
    return halves[:, 0].astype(np.uint64), halves[:, 1].astype(np.uint64)
