"""Near-duplicates: which images show the same as a better one, and which are to stay together.

Shapes: N images in the index.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from pipeline.arrays import Ints
from pipeline.search.index import SearchIndex

_BLOCK = 4096  # queries at a time, so that memory does not grow with the store
_NEIGHBOURS = 32  # per image and round; a larger crowd takes more rounds


@dataclass(frozen=True)
class NearDuplicates:
    """Two ways to gather similar images; element i of each belongs to row i of the index."""

    leaders: Ints  # (N,) the row that stands for it: itself, unless it is a near-duplicate
    crowds: Ints  # (N,) a number that it shares with all that similar images lead to from it


def near_duplicates(index: SearchIndex, rank: Ints, *, cosine: float) -> NearDuplicates:
    """Let the best image of each crowd of similar ones stand for the others, and tell crowds apart.

    Leaders: greedily, best first, an image that nobody stands for stands for all its neighbours
    that are at least as similar as `cosine`. Unlike connected components this does not chain a
    whole class into one group. It is repeated among those that are left until no two of them are
    that similar.

    Crowds: the connected components. They chain, but no two images of different crowds are that
    similar, and they do not depend on `rank`. (Of more than 32 images that are all that similar,
    each knows its nearest 32, which holds such a crowd together unless it is two by itself.)

    Args:
        index: N images.
        rank: (N,) the place of each row among all; 0 is the best image.
        cosine: the threshold, above 0 to 1.
    """
    count = len(index)
    leader = np.arange(count)
    left = np.arange(count)
    crowded = csr_matrix((count, count), dtype=bool)
    while len(links := _links(index, left, cosine)):
        adjacent = csr_matrix((np.ones(len(links), bool), links.T), shape=(count, count))
        adjacent = (adjacent + adjacent.T).tocsr()  # of two neighbours either may list the other
        crowded = crowded + adjacent
        for row in left[np.argsort(rank[left])]:
            if leader[row] != row:
                continue
            near = adjacent.indices[adjacent.indptr[row] : adjacent.indptr[row + 1]]
            leader[near[leader[near] == near]] = row
            leader[row] = row
        left = np.flatnonzero(leader == np.arange(count))
    while np.any(leader != leader[leader]):  # a leader of one round may be led in the next
        leader = leader[leader]
    _, crowds = connected_components(crowded, directed=False)
    return NearDuplicates(leader, crowds.astype(np.int64))


def _links(index: SearchIndex, rows: Ints, cosine: float) -> Ints:
    """Return the pairs (M, 2) of different rows that are at least this similar."""
    pairs = [np.empty((0, 2), np.int64)]
    everything = len(rows) == len(index)
    # Half precision moves the cosine of two equal vectors by up to this much.
    threshold = min(cosine, 1 - 1e-3)
    for at in range(0, len(rows), _BLOCK):
        block = rows[at : at + _BLOCK]
        k = min(_NEIGHBOURS + 1, len(rows))  # an image is its own nearest neighbour
        found = index.search(index.vectors(block), k, among=None if everything else rows)
        query, column = np.nonzero(found.cosines >= threshold)
        start, end = block[query], found.rows[query, column]
        pairs.append(np.stack([start, end], axis=1)[start != end])
    return np.concatenate(pairs)
