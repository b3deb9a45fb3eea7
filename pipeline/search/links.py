"""Links: pairs of images that are at least so similar, read from the table of neighbours.

The later one of a pair was searched when the earlier one was there, so its list names it; unless
that list is full of images that are as similar: then it may hide more (a crowd).

Shapes: N images in the index, M pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.arrays import Ints, Shorts
from pipeline.labels.refinement import NEIGHBOURS
from pipeline.search.index import SearchIndex
from pipeline.search.neighbours import neighbours_table
from pipeline.store import Store

_TOGETHER = 200_000  # pairs whose ids are looked up at once


@dataclass(frozen=True)
class Links:
    """Who is linked to whom."""

    pairs: Shorts  # (M, 2) rows of the index, the smaller one first; each pair once
    hiding: Ints  # rows whose own list may be too short, in order


def read_links(store: Store, index: SearchIndex, cosine: float) -> Links:
    """Read the pairs that are at least as similar as `cosine`, a part at a time."""
    numbers = pl.DataFrame({"image_id": index.ids, "row": np.arange(len(index), dtype=np.int32)})
    found = [np.empty((0, 2), np.int32)]
    short = np.ones(len(index), bool)  # who is not in the table may have any neighbour
    for listed in _listed(store, neighbours_table(len(index)), cosine):
        rows = listed.join(numbers, on="image_id", how="inner")
        short[rows.filter(~pl.col("full"))["row"].to_numpy()] = False
        long = (
            rows.filter(pl.col("neighbours").list.len() > 0)
            .explode("neighbours")
            .join(
                numbers.rename({"image_id": "neighbours", "row": "near"}),
                on="neighbours",
                how="inner",
            )
        )
        found.append(np.sort(long.select("row", "near").to_numpy(), axis=1))
    pairs = pl.DataFrame(np.concatenate(found), schema=["one", "other"]).unique().sort("one")
    return Links(pairs.to_numpy(), np.flatnonzero(short))


def _listed(store: Store, table: str, cosine: float) -> Iterator[pl.DataFrame]:
    """Yield image_id, neighbours that are this similar, and whether the whole list is so: full."""
    near = pl.col("cosines").list.eval((pl.element() >= cosine).sum()).list.first().fill_null(0)
    waiting: list[pl.DataFrame] = []
    pairs = 0
    for part in store.parts(table):
        held = store.read(table, parts=[part]).with_columns(count=near)
        kept = held.select(
            "image_id",
            pl.col("neighbours").list.head("count"),  # they are in order
            full=pl.col("count") >= NEIGHBOURS,
        )
        waiting.append(kept)
        pairs += len(kept) + int(held["count"].sum())
        if pairs >= _TOGETHER:
            yield pl.concat(waiting)
            waiting, pairs = [], 0
    if waiting:
        yield pl.concat(waiting)
