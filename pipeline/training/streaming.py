"""Samples whose vectors stay in the store: read part by part while a head learns from them.

What lies in memory does not grow with the vectors: an id, a label, a weight and a place for each
sample (and what is given beside them), the few parts that are being read, and three blocks of
vectors, of which one is learnt from, one waits and one is being filled on a thread of its own.
Shapes: N samples, D image dimensions, S side dimensions (0: image alone), C classes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from pipeline.arrays import Floats, Halves, Ints
from pipeline.errors import StoreError
from pipeline.store import Store
from pipeline.training.ahead import Put, ahead
from pipeline.training.samples import Samples
from pipeline.vectors import stream_rows

_BLOCK_BYTES = 32 << 20  # of vectors that are shuffled together
# Parts that are read in turn, for what came in one drop may be of one class. Arrow holds nearly all
# vectors of an open part: 64 MB where `compact` made it, at D = 512.
_TOGETHER = 4
_CHUNK_ROWS = 512  # more would leave a core's cache before they are copied
_CHUNKS = 2  # read and waiting, of each of these

_Places = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Part:
    """Where the samples of one part lie."""

    name: str
    rows: _Places  # rows of the part, in order
    samples: _Places  # which samples these are


class StoredSamples:
    """The samples of some images of a store; a `Source`.

    Shuffled, parts come in another order for each seed, four at a time are mixed, and each block
    of 32 MB is shuffled whole. Side vectors and soft labels may be memory-mapped arrays.
    """

    def __init__(
        self,
        store: Store,
        ids: Sequence[str] | pl.Series,
        labels: Ints,
        weights: Floats,
        side: npt.NDArray[Any] | None = None,
        soft: npt.NDArray[Any] | None = None,
    ) -> None:
        """Find the images; only their ids are read.

        Args:
            store: where the vectors are. Its parts must not be merged meanwhile: hold its lock.
            ids: (N,) image ids, each once.
            labels: (N,) class indices.
            weights: (N,) above 0.
            side: (N, S); None: image alone.
            soft: (N, C), rows sum to 1; None: not kept.

        Raises:
            ValueError: the lengths differ, or an id comes twice.
            StoreError: an image has no vector.
        """
        identity = store.identity()
        self._store, self._width = store, identity.dimension if identity else 0
        self._labels, self._weights = labels, weights
        self._side: npt.NDArray[Any] = np.empty((len(ids), 0), np.float32) if side is None else side
        self._soft = soft
        given = [len(labels), len(weights), len(self._side), len(ids if soft is None else soft)]
        if given != [len(ids)] * 4:
            raise ValueError(f"{len(ids)} ids, but labels, weights, side and soft are {given}")
        self._parts = store.steadily(lambda: _find(store, pl.Series(ids, dtype=pl.String)))

    def __len__(self) -> int:
        """Return N."""
        return len(self._labels)

    @property
    def sizes(self) -> tuple[int, int]:
        """D and S."""
        return self._width, self._side.shape[1]

    def batches(self, size: int, seed: int | None = None) -> Iterator[Samples]:
        """Yield every sample once, as `Source` says.

        Raises:
            DamagedFileError: a part is not as it was written.
            StoreError: a part is gone.
        """
        chance = None if seed is None else np.random.default_rng(seed)
        rows = max(1, _BLOCK_BYTES // max(1, 2 * self._width * size)) * size
        parts = list(self._parts)
        if chance is not None:
            chance.shuffle(parts)

        def fill(put: Put[_Block]) -> None:
            _fill(self._store, parts, rows, self._width, chance, put)

        with ahead(fill, 1) as blocks:
            for block in blocks:
                for at in range(0, len(block.samples), size):
                    yield self._batch(block, block.order[at : at + size])

    def _batch(self, block: "_Block", order: Ints) -> Samples:
        chosen = block.samples[order]
        # torch makes float16 float32 several times faster than NumPy does.
        images = torch.from_numpy(block.vectors[order]).float().numpy()
        return Samples(
            images,
            self._side[chosen].astype(np.float32, copy=False),
            self._labels[chosen],
            self._weights[chosen],
            None if self._soft is None else self._soft[chosen].astype(np.float32, copy=False),
        )


@dataclass(frozen=True)
class _Block:
    """Samples that are shuffled together."""

    vectors: Halves  # (n, D)
    samples: _Places  # (n,) which they are
    order: Ints  # (n,) in which they come


def _find(store: Store, ids: pl.Series) -> list[_Part]:
    """Return where each image lies, parts and rows in order; one in several parts in the first.

    Part by part and by hashes, so that of millions of ids nothing but 12 bytes each is made.
    """
    hashes = ids.hash().to_numpy()
    order = np.argsort(hashes).astype(np.int32)
    hashes = hashes[order]
    if np.any(hashes[1:] == hashes[:-1]):
        raise ValueError("an image id comes twice among the samples")
    missing = np.ones(len(ids), np.bool_)
    parts = []
    for name in store.parts("embeddings"):
        if not missing.any():
            break
        held = store.read("embeddings", ["image_id"], [name])["image_id"]
        place = np.searchsorted(hashes, held.hash().to_numpy())
        samples = order[np.minimum(place, len(ids) - 1)]
        # Equal hashes are no proof: the ids themselves decide.
        fits = (ids.gather(samples) == held).to_numpy() & missing[samples]
        fits &= held.is_first_distinct().to_numpy()
        missing[samples[fits]] = False
        if fits.any():
            parts.append(_Part(name, np.flatnonzero(fits).astype(np.int32), samples[fits]))
    if missing.any():
        raise StoreError(
            f"{store.location}: {missing.sum()} images to train on have no vector: their file is "
            "gone from embeddings/. `pseudolabel verify`, then `pseudolabel run`, makes them again"
        )
    return parts


def _fill(
    store: Store,
    parts: Sequence[_Part],
    rows: int,
    width: int,
    chance: np.random.Generator | None,
    put: Put[_Block],
) -> None:
    """Put blocks of `rows` samples, the last one of fewer."""
    vectors, samples, filled = np.empty((rows, width), np.float16), np.empty(rows, np.int32), 0

    def whole() -> _Block:
        order = np.arange(filled) if chance is None else chance.permutation(filled)
        return _Block(vectors[:filled], samples[:filled], order)

    for chunk, which in _mixed(store, parts, chance):
        taken = 0
        while taken < len(chunk):
            more = min(len(chunk) - taken, rows - filled)
            vectors[filled : filled + more] = chunk[taken : taken + more]
            samples[filled : filled + more] = which[taken : taken + more]
            taken, filled = taken + more, filled + more
            if filled == rows:
                put(whole())
                # New arrays: the old ones are being learnt from.
                vectors, samples = np.empty_like(vectors), np.empty_like(samples)
                filled = 0
    if filled:
        put(whole())


def _mixed(
    store: Store, parts: Sequence[_Part], chance: np.random.Generator | None
) -> Iterator[tuple[Halves, _Places]]:
    """Yield (vectors, which samples): of several parts in turn where there is chance."""
    together = 1 if chance is None else _TOGETHER
    waiting = iter(parts)
    with ExitStack() as stack:
        opened: list[Iterator[tuple[Halves, _Places]]] = []
        while True:
            while len(opened) < together and (part := next(waiting, None)):
                opened.append(stack.enter_context(ahead(_reader(store, part), _CHUNKS)))
            if not opened:
                return
            turn = 0 if chance is None else int(chance.integers(len(opened)))
            chunk = next(opened[turn], None)
            if chunk is None:
                del opened[turn]
            else:
                yield chunk


def _reader(store: Store, part: _Part) -> Callable[[Put[tuple[Halves, _Places]]], None]:
    """Return what puts the wanted vectors of a part, a few hundred rows at a time."""

    def read(put: Put[tuple[Halves, _Places]]) -> None:
        put_so_far = 0  # rows of the part that are behind us, should it be read afresh

        def take(batches: Iterator[Halves]) -> None:
            nonlocal put_so_far
            start = 0
            for vectors in batches:
                end = start + len(vectors)
                first, last = np.searchsorted(part.rows, (start, end))
                if start >= put_so_far and first < last:
                    picked = part.rows[first:last] - start
                    every = len(picked) == len(vectors)
                    put((vectors if every else vectors[picked], part.samples[first:last]))
                    put_so_far = end
                start = end
                if last == len(part.rows):
                    return

        try:
            stream_rows(store, part.name, _CHUNK_ROWS, take)
        except FileNotFoundError as error:
            raise StoreError(
                f"{store.location}: embeddings/{part.name}.parquet went away while it was being "
                "trained on: it was merged or set aside; train again"
            ) from error

    return read
