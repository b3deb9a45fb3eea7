"""An approximate index on top of the exact rows: few rows are compared, and those exactly.

What the approximate index does not know yet is compared exactly beside it. Where exact search is
less work, for a filter lets few rows pass or many neighbours are asked for, it is taken instead;
and also for a query whose surroundings a filter cuts away.
Shapes: N rows, Q queries, D embedding dimensions, K neighbours asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.arrays import Bools, Floats, Ints
from pipeline.search.approximate import Approximate
from pipeline.search.choosing import Kind
from pipeline.search.exact import MANY, Best, ExactRows, Neighbours
from pipeline.search.tuning import Level, Tuning, reranked

_PRODUCT = 1 / 14  # the work of comparing a row in a matrix product, to comparing it encoded
_DECODING = 5  # the work of decoding a row, to comparing it encoded


@dataclass(frozen=True)
class HeldLayer:
    """An approximate index as the pointer names it."""

    kind: Kind
    name: str
    faiss: str  # SHA-256 of its file
    rows: int  # that it answers with
    trained_on: int  # rows there were when it was trained
    code_bytes: int
    bytes: int  # of its file
    target: float  # recall at 10 that was asked for
    tuning: Tuning

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"index/{self.name}.faiss"

    @classmethod
    def of(cls, content: dict[str, Any]) -> "HeldLayer":
        """Return what `asdict` made a dictionary."""
        told = content["tuning"]
        near, far = ([Level(**level) for level in told[name]] for name in ("near", "far"))
        return cls(**{**content, "tuning": Tuning(near, far, told["apart"])})

    @property
    def recall(self) -> float:
        """Recall at 10, as measured on held-out queries."""
        return self.tuning.near[0].recall


@dataclass(frozen=True)
class Layer:
    """An approximate index, and how to ask it."""

    approximate: Approximate
    tuning: Tuning
    covered: Bools  # (N,) the rows that it answers with

    @classmethod
    def over(cls, exact: ExactRows, approximate: Approximate, tuning: Tuning) -> "Layer":
        """Lay an approximate index over the rows that it was made of."""
        covered = np.zeros(len(exact), np.bool_)
        covered[approximate.rows] = True
        return cls(approximate, tuning, covered)

    def search(self, exact: ExactRows, queries: Floats, k: int, among: Bools | None) -> Neighbours:
        """Find the K nearest rows of each query; as `ExactRows.search`, but some may be missed."""
        near, far = self.tuning.near, self.tuning.far
        found = self._ask(near, exact, queries, k, among)
        # Before all rows are compared, a closer look: the way through a graph may have gone astray.
        for levels in (far,) if far else (near[-1:], far):
            apart = found.cosines[:, 0] < self.tuning.apart
            if not apart.any():
                break
            again = self._ask(levels, exact, queries[apart], k, among)
            found.rows[apart], found.cosines[apart] = again.rows, again.cosines
        return found

    def _ask(
        self,
        levels: Sequence[Level],
        exact: ExactRows,
        queries: Floats,
        k: int,
        among: Bools | None,
    ) -> Neighbours:
        mine, count, asked = self.covered, len(self.approximate), len(exact)
        if among is not None:
            mine = self.covered & among
            count, asked = int(np.count_nonzero(mine)), int(np.count_nonzero(among))
        level = self.level_for(levels, k, count, len(queries), exact.dimension)
        if level is None:
            return exact.search(queries, k, among)
        queries = np.ascontiguousarray(queries, np.float32)
        rows = self.approximate.candidates(queries, level.candidates, level.effort)
        cosines = reranked(exact, queries, rows)
        passing = (rows >= 0) & mine[rows]
        trusted = _trusted(cosines, passing, level.k) >= min(k, count)
        best = Best(len(queries), min(k, asked))
        best.add(np.where(passing, rows, -1), cosines)
        if asked > count:
            others = ~self.covered if among is None else among & ~self.covered
            found = exact.search(queries, best.k, others)
            best.add(found.rows, found.cosines)
        found = best.neighbours(k)
        if not trusted.all():
            again = exact.search(queries[~trusted], k, among)
            found.rows[~trusted], found.cosines[~trusted] = again.rows, again.cosines
        return found

    def level_for(
        self, levels: Sequence[Level], k: int, passing: int, queries: int, dimension: int
    ) -> Level | None:
        """Return how to ask; None where exact search over the rows that pass is less work.

        Of the rows that a filter lets pass by chance, k are almost surely (two standard
        deviations) among a level's nearest rows of all; other filters are met by `search`.
        """
        if not passing:
            return None
        share = passing / len(self.approximate)
        each = 1 if queries < MANY else _PRODUCT + _DECODING / queries
        for level in levels:
            expected = level.k * share
            if expected - 2 * (expected * (1 - share)) ** 0.5 >= k:
                return level if level.work < passing * 2 * dimension * each else None
        return None


def _trusted(cosines: Floats, passing: Bools, k: int) -> Ints:
    """Count, for each query, the rows that pass among the k nearest of all that were found.

    For these nearest the recall was measured. A filter that cuts away a query's surroundings
    leaves few of them, and what passes farther off was never looked for.
    """
    if cosines.shape[1] > k:
        last = -np.partition(-cosines, k - 1, axis=1)[:, k - 1 : k]
        passing = passing & (cosines >= last)
    elif cosines.shape[1] < k:
        return np.zeros(len(cosines), np.int64)
    full = np.isfinite(cosines).sum(axis=1) >= k
    return np.where(full, passing.sum(axis=1), 0)
