"""Disjoint sets of rows that grow together as similar ones are found, a block at a time."""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from pipeline.arrays import Bools, Ints


class Sets:
    """Sets of N rows; each is named by one of them, its root."""

    def __init__(self, labels: Ints) -> None:
        """Begin with the rows of a label together.

        Args:
            labels: (N,), from 0 on.
        """
        first = np.full(int(labels.max(initial=-1)) + 1, len(labels))
        np.minimum.at(first, labels, np.arange(len(labels)))
        self._parent: Ints = first[labels]

    def roots(self, rows: Ints) -> Ints:
        """Return the root of each row's set."""
        found = self._parent[rows]
        while not np.array_equal(above := self._parent[found], found):
            found = above
        self._parent[rows] = found
        return found

    def join(self, rows: Ints, columns: Ints, linked: Bools) -> None:
        """Join the sets of each pair that is linked.

        Args:
            rows: (a,).
            columns: (b,).
            linked: (a, b).
        """
        own, theirs = self.roots(rows), self.roots(columns)
        one, other = np.nonzero(linked & (own[:, None] != theirs))
        if not len(one):
            return
        size = len(own) + len(theirs)
        graph = coo_matrix((np.ones(len(one), bool), (one, len(own) + other)), (size, size))
        labels = connected_components(graph, directed=False)[1]
        roots = np.concatenate([own, theirs])
        first = np.full(size, len(self._parent))
        np.minimum.at(first, labels, roots)
        pairs = np.stack([roots, first[labels]], axis=1)
        for root, lower in np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0):
            [one_root], [other_root] = self.roots(root[None]), self.roots(lower[None])
            self._parent[max(one_root, other_root)] = min(one_root, other_root)

    def numbers(self) -> Ints:
        """Return (N,) numbers from 0 on, the same for the rows of a set."""
        return np.unique(self.roots(np.arange(len(self._parent))), return_inverse=True)[1]
