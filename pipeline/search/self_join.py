"""Self-join: images of an index compared with one another, block by block, as matrix products.

Who is compared with whom is a plan: everybody with everybody, which is exact, or cell by cell
(`cells.Cells`), which is quicker for many. Vectors are decoded a block at a time, so that memory
does not grow with the index.

Shapes: N images in the index, Q asked about, K nearest others, D embedding dimensions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.arrays import Bools, Floats, Ints
from pipeline.search.exact import Neighbours, nearest_of

BLOCK_BYTES = 32 << 20  # of decoded vectors on either side
_TILE_BYTES = 16 << 20  # of cosines with a block that are held at once
# Half precision moves the cosine of two equal vectors by up to 1e-3: nothing nearer is to be found.
EQUAL = 1 - 1e-3


class Vectors(Protocol):
    """What is asked of an index."""

    def __len__(self) -> int:
        """Return N."""

    @property
    def dimension(self) -> int:
        """Return D."""

    def vectors(self, rows: Ints) -> Floats:
        """Return (len(rows), D) vectors of unit length."""


@dataclass(frozen=True)
class Meeting:
    """Some of the images asked about, and some images that each of them is compared with."""

    places: Ints  # (a,) among those asked about; each once
    rows: Ints  # (b,) of the index; each once


class Plan(Protocol):
    """Who is compared with whom."""

    @property
    def exact(self) -> bool:
        """Tell whether nobody is left out."""

    @property
    def visits(self) -> int:
        """Return how many meetings each image has, about."""

    def meetings(self, asked: Ints, among: Bools | None = None) -> Iterator[Meeting]:
        """Yield what to compare: no image meets another one twice.

        Args:
            asked: (Q,) rows.
            among: (N,) the rows to compare them with; None: all.
        """


@dataclass(frozen=True)
class Comparison:
    """A block of cosines."""

    asked: Ints  # (a,) rows of the index
    rows: Ints  # (b,)
    cosines: Floats  # (a, b)


class Everybody:
    """The plan that leaves nobody out."""

    exact = True

    def __init__(self, index: Vectors) -> None:
        """Plan for an index."""
        self._count, self._step = len(index), block_rows(index.dimension)
        self.visits = max(1, -(-self._count // self._step))

    def meetings(self, asked: Ints, among: Bools | None = None) -> Iterator[Meeting]:
        """Yield what to compare, as in `Plan`."""
        rows = np.arange(self._count) if among is None else np.flatnonzero(among)
        places = np.arange(len(asked))
        yield from blocks(places, rows, self._step)


def block_rows(dimension: int) -> int:
    """Return how many vectors a block holds."""
    return max(1, BLOCK_BYTES // (4 * dimension))


def blocks(places: Ints, rows: Ints, step: int) -> Iterator[Meeting]:
    """Yield all pairs of `places` and `rows` in blocks of `step` by `step`."""
    for at in range(0, len(places), step):
        for start in range(0, len(rows), step):
            yield Meeting(places[at : at + step], rows[start : start + step])


def nearest_others(
    index: Vectors,
    asked: Ints,
    k: int,
    plan: Plan,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Neighbours:
    """Find the K nearest others of some images.

    Args:
        index: N images.
        asked: (Q,) rows.
        k: at least 1.
        plan: who is compared with whom.
        on_progress: told of how many images it has done the work since it was last told, Q in all.

    Returns:
        (Q, K) rows and cosines, nearest first; -1 and -inf where there are fewer.
    """
    rows = np.full((len(asked), k), -1, np.int64)
    cosines = np.full((len(asked), k), -np.inf, np.float32)
    met = told = 0
    for meeting in plan.meetings(asked):
        places = meeting.places
        met += len(places)
        if not plan.exact:  # a crowd of equals would else be compared in full, N times N
            places = places[cosines[places, -1] < EQUAL]
        if len(places):
            own = asked[places]
            most = min(k + 1, len(meeting.rows))  # an image is its own nearest
            near, found = nearest_of(index.vectors(own), index.vectors(meeting.rows), most)
            theirs = meeting.rows[found]
            near[theirs == own[:, None]] = -np.inf
            _merge(rows, cosines, places, theirs, near)
        done = min(met // plan.visits, len(asked))
        on_progress(done - told)
        told = done
    on_progress(len(asked) - told)
    return Neighbours(rows=np.where(np.isneginf(cosines), -1, rows), cosines=cosines)


def comparisons(
    index: Vectors, asked: Ints, plan: Plan, among: Bools | None = None
) -> Iterator[Comparison]:
    """Yield the cosines of some images with those that a plan has them meet, themselves included.

    Args:
        index: N images.
        asked: (Q,) rows.
        plan: who is compared with whom.
        among: (N,) the rows to compare them with; None: all.
    """
    for meeting in plan.meetings(asked, among):
        vectors = index.vectors(meeting.rows)
        tile = max(1, _TILE_BYTES // (4 * max(1, len(meeting.rows))))  # images asked about
        for at in range(0, len(meeting.places), tile):
            own = asked[meeting.places[at : at + tile]]
            yield Comparison(own, meeting.rows, index.vectors(own) @ vectors.T)


def _merge(rows: Ints, cosines: Floats, places: Ints, theirs: Ints, near: Floats) -> None:
    """Put what was found for some places among the best that are known, in place."""
    better = near.max(axis=1) > cosines[places, -1]
    places, theirs, near = places[better], theirs[better], near[better]
    both = np.concatenate([cosines[places], near], axis=1)
    order = np.argsort(-both, axis=1, kind="stable")[:, : cosines.shape[1]]
    all_rows = np.concatenate([rows[places], theirs], axis=1)
    rows[places] = np.take_along_axis(all_rows, order, axis=1)
    cosines[places] = np.take_along_axis(both, order, axis=1)
