"""Links: pairs of images that are at least so similar, read from the table of neighbours.

The later one of a pair was searched when the earlier one was there, so its list names it; unless
that list is full of images that are as similar: then it may hide more (a crowd).

Shapes: N images in the index, M pairs.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Ints, Shorts
from pipeline.labels.refinement import NEIGHBOURS
from pipeline.search.index import SearchIndex
from pipeline.search.neighbours import LISTS, id_table, neighbours_table
from pipeline.store import Store


@dataclass(frozen=True)
class Links:
    """Who is linked to whom."""

    pairs: Shorts  # (M, 2) rows of the index, the smaller one first; each pair once
    hiding: Ints  # rows whose own list may be too short, in order


def read_links(store: Store, index: SearchIndex, cosine: float) -> Links:
    """Read the pairs that are at least as similar as `cosine`, some lists at a time."""
    table, name = id_table(store, index), neighbours_table(len(index))
    short = np.ones(len(index), bool)  # who is not in the table may have any neighbour
    found = [np.empty((0, 2), np.int32)]
    for part in store.parts(name):
        for lists in store.read_part(name, part).to_batches(LISTS):
            rows = table.rows(lists["image_id"])
            similar = lists["cosines"].flatten().to_numpy() >= cosine
            lengths = lists["neighbours"].value_lengths().to_numpy()
            whose = np.repeat(np.arange(len(lists)), lengths)[similar]
            full = np.bincount(whose, minlength=len(lists)) >= NEIGHBOURS
            short[rows[(rows >= 0) & ~full]] = False
            own, near = rows[whose], table.rows(lists["neighbours"].flatten().filter(similar))
            known = (own >= 0) & (near >= 0)  # ids that the index does not hold go
            pairs = np.stack([own[known], near[known]], axis=1).astype(np.int32)
            found.append(np.sort(pairs, axis=1))
    return Links(_distinct(np.concatenate(found)), np.flatnonzero(short))


def _distinct(pairs: Shorts) -> Shorts:
    """Return each pair (M, 2) once, in order."""
    numbers = pairs[:, 0].astype(np.int64) << 32 | pairs[:, 1]
    numbers.sort()
    numbers = numbers[np.diff(numbers, prepend=-1) > 0]
    return np.stack([numbers >> 32, numbers & 0xFFFFFFFF], axis=1).astype(np.int32)
