"""Tuning an approximate index to a recall: the least work that reaches it, on held-out queries.

Work is counted in bytes of codes and vectors read per query, so the same index is tuned the same
on every machine. Queries are stored vectors that are left out of their own answers, and noise that
lies as far from them as texts do.
Shapes: Q queries, D embedding dimensions, K neighbours asked for, C candidates.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Doubles, Floats, Ints, unit_rows
from pipeline.search.approximate import Approximate
from pipeline.search.exact import ExactRows, Neighbours

QUERIES = 200
_TEST_QUERIES = 32
_TEST_ROWS = 1 << 20
_CHUNK = 4096  # rows that are looked through together
_DEPTHS = (10, 20, 200, 1000)  # neighbours, for each of which it is tuned
_ROOM = 10  # times as many vectors as neighbours, or an approximate answer is not worth it
_MOST_CANDIDATES = 4096
_MOST_PER_NEIGHBOUR = 64
_BLOCK_BYTES = 32 << 20  # of candidates' vectors
_LIKENESS = 0.1  # cosine of noise with the stored vector in it
_OUTLIERS = 0.005  # share of stored vectors that tell nothing of how near the others lie
_NOT_STORED = -2  # the row of a query that is none
_SAME = 1e-6  # two cosines that differ by less are equally good answers


@dataclass(frozen=True)
class Level:
    """How to search for up to K neighbours."""

    k: int
    effort: int  # as `Approximate.candidates` takes it
    rerank: int  # candidates for each neighbour, compared exactly
    work: float  # bytes read per query
    recall: float  # measured on the held-out queries

    @property
    def candidates(self) -> int:
        """How many candidates to ask for."""
        return self.rerank * self.k


@dataclass(frozen=True)
class Tuning:
    """How to search: for queries that lie among the vectors, and for those that lie apart."""

    near: list[Level]
    far: list[Level]  # only such as reach the target
    apart: float  # a query whose nearest vector has a smaller cosine lies apart


def tune(exact: ExactRows, approximate: Approximate, target: float) -> Tuning:
    """Return levels for 10, 20, 200 and 1,000 neighbours, as far as there are vectors enough.

    Texts lie apart from images, and their neighbours are spread over many cells. Noise stands for
    them, with a little of a stored vector in it. On OpenAI's ViT-B/32 1,745 names asked of 5,745
    images need as much work, where tuned on images alone recall was 0.6 to 0.7.
    Where stored vectors do not reach the target, a level is the best there is; its recall tells.

    Args:
        exact: the vectors.
        approximate: an index of some of its rows.
        target: recall, above 0 to 1, that the mean less its standard error is to reach.
    """
    rng = np.random.default_rng(1)
    rows = np.sort(rng.choice(approximate.rows, min(QUERIES, len(approximate)), False))
    stored = exact.vectors(rows)
    near, nearest = _levels(exact, approximate, stored, rows, target)
    noise = unit_rows(rng.normal(size=stored.shape))
    apart = unit_rows(_LIKENESS * stored + (1 - _LIKENESS**2) ** 0.5 * noise)
    outside = np.full(len(rows), _NOT_STORED)
    far, farthest = _levels(exact, approximate, apart, outside, target)
    reached = [level for level in far if level.recall >= target]
    told = nearest[np.isfinite(nearest)]
    if not len(told):
        return Tuning(near, reached, apart=1.0)
    least = float(np.quantile(told, _OUTLIERS))
    # Halfway to what noise is near to: a query that merely missed its nearest does not lie apart.
    limit = (least + min(least, float(np.median(farthest)))) / 2
    return Tuning(near, reached, limit)


def _levels(
    exact: ExactRows, approximate: Approximate, queries: Floats, rows: Ints, target: float
) -> tuple[list[Level], Floats]:
    """Return the levels for queries that are stored at `rows`, and their nearest cosines (Q,)."""
    count = len(approximate)
    depths = [k for k in _DEPTHS if k == _DEPTHS[0] or _ROOM * k <= count]
    depths = [min(k, max(1, count - 1)) for k in depths]
    marks = np.zeros(len(exact), np.bool_)
    marks[approximate.rows] = True
    truth = _without_self(exact.search(queries, depths[-1] + 1, marks), rows)
    levels: list[Level] = []
    for k in depths:
        least = levels[-1].effort if levels else 0  # deeper answers take no less
        levels.append(_level(exact, approximate, queries, rows, truth[:, :k], target, least))
    return levels, truth[:, 0]


@dataclass(frozen=True)
class Measured:
    """A recall at 10 as a few queries tell it."""

    recall: float
    error: float  # standard error of it


def self_test(exact: ExactRows, approximate: Approximate, level: Level) -> Measured:
    """Return the recall of a level, measured on a few queries among a bounded number of rows.

    Where there are more rows, a share of them is looked through, and each that should have been
    found stands for as many as were not looked at.
    """
    count = len(approximate)
    rng = np.random.default_rng(2)
    rows = np.sort(rng.choice(approximate.rows, min(_TEST_QUERIES, count), False))
    queries = exact.vectors(rows)
    seen = np.zeros(len(exact), np.bool_)
    seen[approximate.rows] = True
    share = min(1.0, _TEST_ROWS / count)
    if share < 1:
        chunks = -(-len(exact) // _CHUNK)
        seen &= np.repeat(rng.random(chunks) < share, _CHUNK)[: len(exact)]
        share = max(1, int(seen.sum())) / count
    found = approximate.candidates(queries, level.candidates + 1, level.effort)
    found = np.where(found == rows[:, None], -1, found)
    cosines = reranked(exact, queries, found)
    best = exact.search(queries, level.k + 1, seen)
    recalls = []
    for query, row in enumerate(rows):
        missed = ~np.isin(best.rows[query], [-1, row, *found[query]])
        mine = np.sort(cosines[query])[::-1][: level.k]
        recalls.append(_weighed(mine, best.cosines[query][missed], 1 / share, level.k))
    return Measured(float(np.mean(recalls)), float(np.std(recalls) / len(rows) ** 0.5))


def falls_short(tested: Measured, target: float) -> bool:
    """Tell whether a recall is below a target by more than chance explains."""
    return tested.recall + 2 * tested.error < target


def _weighed(mine: Floats, missed: Floats, weight: float, k: int) -> float:
    """Return the share of the K nearest that was found; each that was missed weighs so much."""
    mine = mine[np.isfinite(mine)]
    cosines = np.concatenate([mine + _SAME, missed])
    weights = np.concatenate([np.ones(len(mine)), np.full(len(missed), weight)])
    order = np.argsort(-cosines, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    inside = np.clip(k - before, 0, weights[order])
    total = inside.sum()
    return float(inside[order < len(mine)].sum() / total) if total else 1.0


def recall_of(found: Floats, truth: Floats) -> Doubles:
    """Return the recall of each query, (Q,): the share of answers as near as the K-th nearest.

    Args:
        found: (Q, any) exact cosines of the answers; -inf: none.
        truth: (Q, K) those of the nearest, most similar first.
    """
    wanted = np.isfinite(truth).sum(axis=1)
    last = np.where(np.isfinite(truth), truth, np.inf).min(axis=1)
    reached = (found >= last[:, None] - _SAME).sum(axis=1)
    recalls: Doubles = np.minimum(reached, wanted) / np.maximum(wanted, 1) + (wanted == 0)
    return recalls


def reranked(exact: ExactRows, queries: Floats, candidates: Ints) -> Floats:
    """Return the exact cosine of each candidate, (Q, C); -inf where there is none."""
    cosines = np.empty(candidates.shape, np.float32)
    step = max(1, _BLOCK_BYTES // (4 * exact.dimension * max(1, candidates.shape[1])))
    for at in range(0, len(queries), step):
        block = candidates[at : at + step]
        vectors = exact.vectors(np.maximum(block, 0).ravel()).reshape(*block.shape, -1)
        told = (vectors @ queries[at : at + step, :, None])[..., 0]
        cosines[at : at + step] = np.where(block >= 0, told, -np.inf)
    return cosines


def _level(
    exact: ExactRows,
    approximate: Approximate,
    queries: Floats,
    rows: Ints,
    truth: Floats,
    target: float,
    least: int,
) -> Level:
    best: Level | None = None
    most: Level | None = None
    k = truth.shape[1]
    most_candidates = min(_MOST_CANDIDATES, _MOST_PER_NEIGHBOUR * k)
    for effort in (effort for effort in approximate.efforts() if effort >= least):
        approximate.looked_at()
        found = approximate.candidates(queries, most_candidates + 1, effort)
        scanned = approximate.looked_at() / len(queries) * approximate.code_bytes
        scanned += approximate.fixed_work
        if best is not None and scanned >= best.work:
            break
        found = np.where(found == rows[:, None], -1, found)
        for rerank, recalls in _recalls(exact, queries, found, truth):
            mean, error = recalls.mean(), recalls.std() / len(recalls) ** 0.5
            work = scanned + rerank * k * 2 * exact.dimension
            level = Level(k, effort, rerank, float(work), float(mean))
            if most is None or level.recall > most.recall:
                most = level
            if mean - error >= target and (best is None or work < best.work):
                best = level
    assert most is not None
    return best or most


def _recalls(
    exact: ExactRows, queries: Floats, found: Ints, truth: Floats
) -> Iterator[tuple[int, Doubles]]:
    """Yield candidates per neighbour, and the recalls where so many are compared exactly."""
    k = truth.shape[1]
    cosines = reranked(exact, queries, found)
    rerank = 1
    while True:
        yield rerank, recall_of(cosines[:, : rerank * k + 1], truth)
        if rerank * k + 1 >= found.shape[1]:
            return
        rerank *= 2


def _without_self(found: Neighbours, rows: Ints) -> Floats:
    """Return the cosines without that of the query itself, one column fewer."""
    own = found.rows == rows[:, None]
    own[~own.any(axis=1), -1] = True  # crowded out by its doubles: one of them goes instead
    others: Floats = found.cosines[~own].reshape(len(rows), -1)
    return others
