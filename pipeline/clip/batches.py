"""Batches: pictures in, vectors out in the same order, by several lanes of the model at once.

A lane is a thread that runs the model on a batch of its own. On a CPU each lane has its own cores,
so that none waits at the barriers of the others; on a GPU the second lane copies while the first
computes.
"""

import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import numpy as np

from pipeline.arrays import Pixels
from pipeline.clip.protocol import Encode, Encoded, ImageEncoder, Lanes
from pipeline.clock import Clock
from pipeline.images.decoding import Picture
from pipeline.images.undecoded import Undecoded

_SMALLEST, _LARGEST = 16, 1024  # where a size is sought
_TRIALS = 4  # batches that a size is judged by, after a first one that warms up
_WORTH = 1.05  # a size must be so much faster than half of it to be taken


class BatchSize:
    """Images per forward pass: what was asked for, or found while running.

    The search doubles the size as long as images per second grow. Memory that runs out ends it.
    """

    def __init__(self, wanted: int) -> None:
        """Begin at `wanted`, or search where it is 0."""
        self.size = wanted or _SMALLEST
        self._searching = wanted == 0
        self._rates: list[float] = []  # of this size
        self._best = 0.0  # of half of it

    def took(self, images: int, seconds: float) -> None:
        """Learn how long a batch took in its lane."""
        if not self._searching or images != self.size:
            return
        self._rates.append(images / max(seconds, 1e-9))
        if len(self._rates) <= _TRIALS:
            return
        rate = statistics.median(self._rates[1:])
        self._rates = []
        if rate < _WORTH * self._best:
            self._settle(self.size // 2)
        elif 2 * self.size > _LARGEST:
            self._settle(self.size)
        else:
            self._best, self.size = rate, 2 * self.size

    def too_large(self, images: int) -> None:
        """Learn that memory ran out over a batch: none is as large again."""
        if self.size >= images:
            self._settle(max(1, images // 2))

    def _settle(self, size: int) -> None:
        self.size, self._searching = size, False


class Batches:
    """Takes pictures one by one and hands out their vectors, batch by batch, in order."""

    def __init__(self, encode: Encode, lanes: Lanes, size: BatchSize, clock: Clock) -> None:
        self._encode, self._lanes, self._size, self._clock = encode, lanes, size, clock
        self._pictures: list[Picture | Undecoded] = []
        self._under_way: deque[Future[tuple[Encoded, float]]] = deque()

    def window(self) -> int:
        """Return how many pictures are of use beside those that were added: the next batches."""
        return (self._lanes.count + 1) * self._size.size

    def add(self, picture: Picture | Undecoded) -> Iterator[Encoded]:
        """Take a picture; return vectors that are ready, of pictures added earlier."""
        self._pictures.append(picture)
        if len(self._pictures) < self._size.size:
            return
        yield from self._ready(wait_for=len(self._under_way) - self._lanes.count)
        self._start()

    def finish(self) -> Iterator[Encoded]:
        """Return the vectors of all that is left."""
        if self._pictures:
            self._start()
        yield from self._ready(wait_for=len(self._under_way))

    def _start(self) -> None:
        pictures, self._pictures = self._pictures, []
        self._under_way.append(self._lanes.pool.submit(self._run, pictures))

    def _ready(self, wait_for: int) -> Iterator[Encoded]:
        while self._under_way and (wait_for > 0 or self._under_way[0].done()):
            encoded, seconds = self._under_way.popleft().result()
            self._size.took(len(encoded.vectors), seconds)
            self._clock.add("inference", seconds / self._lanes.count)
            yield encoded
            wait_for -= 1

    def _run(self, pictures: Sequence[Picture | Undecoded]) -> tuple[Encoded, float]:
        started = time.perf_counter()
        encoded = self._halved(pictures)
        return encoded, time.perf_counter() - started

    def _halved(self, pictures: Sequence[Picture | Undecoded]) -> Encoded:
        """Encode them together, or by halves where memory runs out."""
        try:
            return self._encode(pictures)
        except MemoryError:
            if len(pictures) == 1:
                raise
        self._size.too_large(len(pictures))
        half = len(pictures) // 2
        left, right = self._halved(pictures[:half]), self._halved(pictures[half:])
        return Encoded(
            np.concatenate([left.vectors, right.vectors]), [*left.refused, *right.refused]
        )


def pixels_to(encoder: ImageEncoder) -> Encode:
    """Return what encodes pictures that are all decoded."""

    def encode(pictures: Sequence[Picture | Undecoded]) -> Encoded:
        vectors = encoder.encode_images(np.stack([_pixels_of(picture) for picture in pictures]))
        return Encoded(vectors, [None] * len(vectors))

    return encode


def _pixels_of(picture: Picture | Undecoded) -> Pixels:
    if isinstance(picture, Undecoded):
        raise TypeError(f"{picture.name} is not decoded: who leaves that undone has to encode")
    return picture.pixels
