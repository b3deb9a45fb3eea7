"""Near-duplicates: which images show the same as a better one, up to a threshold on cosine.

Shapes: N images in the index.
"""

import numpy as np
from scipy.sparse import csr_matrix

from pipeline.arrays import Ints
from pipeline.search.index import SearchIndex

_BLOCK = 4096  # queries at a time, so that memory does not grow with the store
_NEIGHBOURS = 32  # per image and round; a larger crowd takes more rounds


def near_duplicate_leaders(index: SearchIndex, rank: Ints, *, cosine: float) -> Ints:
    """Let the best image of each crowd of similar ones stand for the others.

    Greedily, best first: an image that nobody stands for stands for all its neighbours that are at
    least as similar as `cosine`. Unlike connected components this does not chain a whole class into
    one group. It is repeated among those that are left until no two of them are that similar.

    Args:
        index: N images.
        rank: (N,) the place of each row among all; 0 is the best image.
        cosine: the threshold, above 0 to 1.

    Returns:
        (N,) for each row the row that stands for it: itself, unless it is a near-duplicate.
    """
    count = len(index)
    leader = np.arange(count)
    left = np.arange(count)
    while len(links := _links(index, left, cosine)):
        adjacent = csr_matrix((np.ones(len(links), bool), links.T), shape=(count, count))
        adjacent = (adjacent + adjacent.T).tocsr()  # of two neighbours either may list the other
        for row in left[np.argsort(rank[left])]:
            if leader[row] != row:
                continue
            near = adjacent.indices[adjacent.indptr[row] : adjacent.indptr[row + 1]]
            leader[near[leader[near] == near]] = row
            leader[row] = row
        left = np.flatnonzero(leader == np.arange(count))
    while np.any(leader != leader[leader]):  # a leader of one round may be led in the next
        leader = leader[leader]
    return leader


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
