"""Groups: images of a store that show the same, the best of each first, and the reason it is best.

Best is the one with the most pixels, then the one whose label is clearest (its margin), then the
one with the most bytes, then the first by path.
Shapes: N images in the index.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.arrays import Bools, Floats, Ints
from pipeline.catalog import current_files, present_images
from pipeline.errors import InputError
from pipeline.labels.labelling import current_labels
from pipeline.search.duplicates import crowd_plan, near_duplicates, threshold
from pipeline.search.index import SearchIndex
from pipeline.search.links import read_links
from pipeline.search.neighbours import measured_recall
from pipeline.search.self_join import Everybody, comparisons
from pipeline.store import Store

_SAMPLE = 512  # images that are compared with all others to see what was missed
_BLOCK = 8192
_ORDER = ["pixels", "margin", "bytes"]  # the most of each is best
_SHOWN = ["path", "width", "height", "margin", "bytes", "cosine", "best", "reason"]


@dataclass(frozen=True)
class Groups:
    """The near-duplicates among the images that are there."""

    images: int  # looked at
    pairs: int  # at least so similar, as far as the table of neighbours names them
    # Of the pairs that a sample of the images really has, the share that is in one crowd; null: it
    # has none.
    recall: float | None
    neighbour_recall: float | None  # of the table of neighbours, as it was measured
    # group (from 0 on, largest first), image_id, path, width, height (px), margin, bytes, cosine
    # (with the best), best, reason (of the best: why it is); the best of each group first
    members: pl.DataFrame
    copies: pl.DataFrame  # image_id, paths: the same bytes under several paths; most paths first


def find_groups(store: Store, index: SearchIndex, *, cosine: float, crowds: bool = False) -> Groups:
    """Group the images that are there and at least so similar.

    Args:
        store: its table of neighbours must be up to date.
        index: of all its vectors.
        cosine: the threshold, above 0 to 1.
        crowds: whether all that similar images lead to is a group, as for splits; else each image
            of a group is that similar to its best, as for a selection.

    Raises:
        InputError: the threshold is out of range.
    """
    require_cosine(cosine)
    images = best_first(_described(store))
    numbers = pl.DataFrame({"image_id": index.ids, "row": np.arange(len(index))})
    images = images.join(numbers, on="image_id", how="inner", maintain_order="left")
    rows = images["row"].to_numpy()
    place = np.full(len(index), len(rows))  # an image that is gone stands behind all others
    place[rows] = np.arange(len(rows))
    there = place < len(rows)
    links = read_links(store, index, threshold(cosine))
    plan = crowd_plan(store, index, links)
    found = near_duplicates(index, place, cosine=cosine, links=links, plan=plan)
    gathered = (found.crowds if crowds else found.leaders)[rows]
    return Groups(
        images=len(rows),
        pairs=int(there[links.pairs].all(axis=1).sum()),
        recall=_recall(index, there, found.crowds, cosine),
        neighbour_recall=measured_recall(store, len(index)),
        members=_members(index, images.with_columns(found=pl.Series(gathered, dtype=pl.Int64))),
        copies=_copies(store),
    )


def require_cosine(cosine: float) -> None:
    """Raise InputError over a threshold that is out of range; NaN is, too."""
    if not 0 < cosine <= 1:
        raise InputError(f"threshold {cosine:g}: a cosine above 0, up to 1, is needed")


def best_first(images: pl.DataFrame) -> pl.DataFrame:
    """Sort images by pixels, margin and bytes, the most of each first, then by path."""
    down = [True] * len(_ORDER) + [False]
    return images.sort([*_ORDER, "path"], descending=down, nulls_last=True)


def with_reasons(members: pl.DataFrame) -> pl.DataFrame:
    """Add best and reason to the members of groups, each group's best first."""
    # As good as the best in the first measure, in the first two, in all three: itself, or others?
    ties, equal = [], pl.lit(value=True)
    for name in _ORDER:
        equal = equal & pl.col(name).eq_missing(pl.col(name).first().over("group"))
        ties.append(equal.sum().over("group") == 1)
    most, clearest, largest = ties
    words = (
        pl.when(most)
        .then(pl.format("most pixels: {} x {}", "width", "height"))
        .when(clearest)
        .then(pl.format("no other has more pixels, and its label is clearest: margin {}", _margin))
        .when(largest)
        .then(pl.format("nothing else tells them apart, and it has the most bytes: {}", "bytes"))
        .otherwise(pl.lit("nothing tells them apart: the first by path"))
    )
    best = pl.int_range(pl.len()).over("group") == 0
    return members.with_columns(best=best).with_columns(
        reason=pl.when(pl.col("best")).then(words).otherwise(None)
    )


_margin = pl.col("margin").cast(pl.Float64).round(3)


def _described(store: Store) -> pl.DataFrame:
    """Return image_id, path, width, height, pixels, margin and bytes of the images there."""
    sizes = store.read("embeddings", ["image_id", "width", "height"]).unique("image_id")
    files = current_files(store, ["image_id", "bytes", "status"]).filter(status="ok")
    files = files.group_by("image_id").agg(pl.col("bytes").max())
    images = present_images(store).select("image_id", "path")
    images = images.join(sizes, on="image_id", how="inner").join(files, on="image_id", how="left")
    try:
        told = store.read(current_labels(store).table, ["image_id", "margin"]).unique("image_id")
    except InputError:  # not labelled yet
        told = images.select("image_id", margin=pl.lit(None, pl.Float32))
    pixels = pl.col("width").cast(pl.Int64) * pl.col("height")
    return images.join(told, on="image_id", how="left").with_columns(pixels=pixels)


def _members(index: SearchIndex, images: pl.DataFrame) -> pl.DataFrame:
    """Number the groups of at least two, of images best first with what they were `found` in."""
    placed = images.with_row_index("place")
    several = placed.with_columns(
        size=pl.len().over("found"), first=pl.col("place").min().over("found")
    )
    several = several.filter(pl.col("size") > 1).sort(
        "size", "first", descending=[True, False], maintain_order=True
    )
    group = (pl.col("first") != pl.col("first").shift(1)).fill_null(value=False).cum_sum()
    numbered = several.with_columns(group=group.cast(pl.Int64))
    leads = numbered.select(pl.col("row").first().over("group"))["row"].to_numpy()
    cosines = _cosines(index, numbered["row"].to_numpy(), leads)
    told = with_reasons(numbered.with_columns(cosine=pl.Series(cosines, dtype=pl.Float32)))
    return told.select("group", "image_id", *_SHOWN)


def _cosines(index: SearchIndex, rows: Ints, others: Ints) -> Floats:
    """Return the cosine of each row with another one."""
    found = np.empty(len(rows), np.float32)
    for at in range(0, len(rows), _BLOCK):
        one, other = (index.vectors(some[at : at + _BLOCK]) for some in (rows, others))
        found[at : at + _BLOCK] = np.einsum("nd,nd->n", one, other)
    return np.minimum(found, 1)  # half precision may lengthen a vector


def _recall(index: SearchIndex, there: Bools, crowds: Ints, cosine: float) -> float | None:
    """Return the share of true pairs that are in one crowd, of some images compared with all."""
    rows = np.flatnonzero(there)
    sample = np.random.default_rng(0).choice(rows, min(_SAMPLE, len(rows)), replace=False)
    pairs = together = 0
    for block in comparisons(index, sample, Everybody(index), there):
        near = block.cosines >= threshold(cosine)
        near &= block.asked[:, None] != block.rows
        pairs += int(near.sum())
        together += int((near & (crowds[block.asked][:, None] == crowds[block.rows])).sum())
    return together / pairs if pairs else None


def _copies(store: Store) -> pl.DataFrame:
    """Return the images whose bytes lie under several paths."""
    files = current_files(store, ["image_id", "status"]).filter(status="ok")
    copies = files.group_by("image_id").agg(paths=pl.col("path").sort())
    copies = copies.filter(pl.col("paths").list.len() > 1)
    order = [pl.col("paths").list.len(), pl.col("paths").list.first()]
    return copies.sort(order, descending=[True, False])
