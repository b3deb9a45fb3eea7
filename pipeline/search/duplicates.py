"""Near-duplicates: which images show the same as a better one, and which are to stay together.

What the table of neighbours tells is not searched again. Only the images whose list of neighbours
is too short (`links`) are compared with others, block by block; of these comparisons nothing is
kept but who is best and who belongs together, so that memory does not grow with crowds.

Shapes: N images in the index, M pairs.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from pipeline.arrays import Bools, Ints
from pipeline.labels.refinement import NEIGHBOURS
from pipeline.search.cells import load_cells, tuned
from pipeline.search.index import SearchIndex
from pipeline.search.links import Links
from pipeline.search.neighbours import is_small
from pipeline.search.self_join import EQUAL, Everybody, Plan, comparisons
from pipeline.search.sets import Sets
from pipeline.store import Store


@dataclass(frozen=True)
class NearDuplicates:
    """Two ways to gather similar images; element i of each belongs to row i of the index."""

    leaders: Ints  # (N,) the row that stands for it: itself, unless it is a near-duplicate
    crowds: Ints  # (N,) a number that it shares with all that similar images lead to from it


def threshold(cosine: float) -> float:
    """Return the cosine that two images as similar as this have in half precision, at least."""
    return min(cosine, EQUAL)


def near_duplicates(
    index: SearchIndex,
    rank: Ints,
    *,
    cosine: float,
    links: Links | None = None,
    plan: Plan | None = None,
) -> NearDuplicates:
    """Let the best image of each crowd of similar ones stand for the others, and tell crowds apart.

    Leaders: greedily, best first, an image that nobody stands for stands for all its neighbours
    that are at least as similar as `cosine` and nobody stands for yet. Unlike connected components
    this does not chain a whole class into one group, and no two leaders are that similar.

    Crowds: the connected components. They chain, but no two images of different crowds are that
    similar, and they do not depend on `rank`.

    Args:
        index: N images.
        rank: (N,) the place of each row among all; 0 is the best image. Of two with the same the
            one that came first is better.
        cosine: the threshold, above 0 to 1.
        links: the pairs at `threshold(cosine)` or above that are known; None: none is.
        plan: whom to compare those with whose list is too short; None: everybody, which is exact.
    """
    count = len(index)
    if links is None:
        links = Links(np.empty((0, 2), np.int32), np.arange(count))
    search = _Search(index, rank, threshold(cosine), links, plan or Everybody(index))
    crowds = search.look_around()
    return NearDuplicates(search.leaders(), crowds)


def crowd_plan(store: Store, index: SearchIndex, links: Links) -> Plan:
    """Return whom to compare those with whose list of neighbours is too short."""
    if is_small(index, len(links.hiding)):
        return Everybody(index)
    cells = load_cells(store, index, index.ids)
    return cells if cells.probes else tuned(cells, links.hiding, NEIGHBOURS)[0]


class _Search:
    """The greedy search for leaders, done for all images at once.

    Whoever has none better among its neighbours is a leader; whoever's best neighbour is a leader
    follows it; whoever's best neighbour follows another one looks for the next best. That comes to
    the same as going through them one by one, best first, and needs of each image only its best
    neighbour.
    """

    def __init__(
        self, index: SearchIndex, rank: Ints, cosine: float, links: Links, plan: Plan
    ) -> None:
        self._index, self._cosine, self._plan = index, cosine, plan
        self._order = np.argsort(rank, kind="stable")  # rows, best first
        self._place = np.empty(len(rank), np.int32)
        self._place[self._order] = np.arange(len(rank))
        self._start, self._end = np.concatenate([links.pairs, links.pairs[:, ::-1]]).T
        self._hiding = links.hiding
        self._unsure = np.zeros(len(rank), bool)  # has neighbours that no pair tells of
        self._unsure[links.hiding] = True
        self._best = self._place.copy()  # the place of its best neighbour, or its own
        np.minimum.at(self._best, self._start, self._place[self._end])

    def look_around(self) -> Ints:
        """Find the neighbours that no pair tells of; return the crowds, (N,)."""
        count, place, best = len(self._place), self._place, self._best
        half = len(self._start) // 2  # the other half is the same pairs the other way round
        linked = (self._start[:half], self._end[:half])
        known = coo_matrix((np.ones(half, bool), linked), (count, count))
        crowds = Sets(connected_components(known, directed=False)[1])
        for block in comparisons(self._index, self._hiding, self._plan):
            near = block.cosines >= self._cosine
            own, theirs = place[block.asked], place[block.rows]
            for rows, found in (
                (block.asked, np.where(near, theirs, count).min(axis=1)),
                (block.rows, np.where(near, own[:, None], count).min(axis=0)),
            ):
                best[rows] = np.minimum(best[rows], found)
            self._unsure[block.rows[near.any(axis=0)]] = True
            crowds.join(block.asked, block.rows, near)
        return crowds.numbers()

    def leaders(self) -> Ints:
        """Return who stands for whom, (N,)."""
        rows = np.arange(len(self._place))
        leader, waiting = np.full(len(rows), -1), rows
        while len(waiting):
            best = self._order[self._best[waiting]]
            leads = best == waiting
            leader[waiting[leads]] = waiting[leads]
            settled = leads | (leader[best] == best)
            leader[waiting[settled]] = best[settled]
            waiting, best = waiting[~settled], best[~settled]
            stale = waiting[leader[best] >= 0]
            self._look_again(stale, (leader < 0) | (leader == rows), leader < 0)
        return leader

    def _look_again(self, stale: Ints, standing: Bools, waiting: Bools) -> None:
        """Find the best neighbour of some images among those that follow nobody."""
        if not len(stale):
            return
        kept = waiting[self._start] & standing[self._end]
        self._start, self._end = self._start[kept], self._end[kept]
        best, place = self._best, self._place
        best[stale] = place[stale]
        again = np.zeros(len(best), bool)
        again[stale] = True
        linked = again[self._start]
        np.minimum.at(best, self._start[linked], place[self._end[linked]])
        unsure = stale[self._unsure[stale]]
        if not len(unsure):
            return
        among = self._unsure & standing
        for block in comparisons(self._index, unsure, self._plan, among):
            near = np.where(block.cosines >= self._cosine, place[block.rows], len(best))
            best[block.asked] = np.minimum(best[block.asked], near.min(axis=1))
