"""Near-duplicates: which images show the same, up to a threshold on cosine."""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from pipeline.arrays import Ints
from pipeline.search.index import SearchIndex

_BLOCK = 4096  # queries at a time, so that memory does not grow with the store
_NEIGHBOURS = 32  # enough: within a larger group the links of its members overlap


def duplicate_groups(index: SearchIndex, *, cosine: float) -> Ints:
    """Group images that are linked by pairs at least as similar as `cosine`.

    Each image is compared with its 32 nearest; groups are the connected components of those links.

    Args:
        index: N images.
        cosine: the threshold, above 0 to 1.

    Returns:
        (N,) a group number per row of the index; images of a group share it.
    """
    count = len(index)
    threshold = min(cosine, 1 - 1e-3)  # half precision moves a cosine of 1 by almost as much
    starts, ends = [], []
    for at in range(0, count, _BLOCK):
        queries = index.vectors(at, min(at + _BLOCK, count))
        found = index.search(queries, min(_NEIGHBOURS + 1, count))
        query, column = np.nonzero(found.cosines >= threshold)
        starts.append(query + at)
        ends.append(found.rows[query, column])
    if not starts:
        return np.empty(0, np.int64)
    start, end = np.concatenate(starts), np.concatenate(ends)
    links = coo_matrix((np.ones(len(start), bool), (start, end)), shape=(count, count))
    _, groups = connected_components(links, directed=False)
    return np.asarray(groups, np.int64)
