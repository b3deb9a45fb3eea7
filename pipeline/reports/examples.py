"""Which images of a drop a person is shown: examples of classes, strange ones, doubtful ones."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.labels.labelling import current_table
from pipeline.reports.history import parts_of_run
from pipeline.search.agreement import compare, labels_of
from pipeline.search.neighbours import neighbours_table
from pipeline.search.pointer import indexed
from pipeline.store import Store

_PER_GROUP = 4
_NEAR = 0.5  # margin from which on the second label is too far to be named
_CLASSES = 12
_STRANGEST = 12
_DISAGREEING = 12
_COLUMNS = ["image_id", "label", "label_index", "confidence", "margin", "unknown_score"]


@dataclass(frozen=True)
class Example:
    """One image, and what is said of it."""

    image_id: str
    path: str
    words: str


@dataclass(frozen=True)
class ClassExamples:
    """Images of one class; no image stands there twice."""

    label: str
    images: int  # of the drop, with this label
    best: list[Example]  # surest first
    worst: list[Example]  # the least confident first
    unsure: list[Example]  # of the others those whose second label is near, the nearest first


@dataclass(frozen=True)
class Disagreement:
    """Images whose neighbours mostly have another label."""

    looked_at: int  # images with neighbours that have labels
    mean: float | None  # share of neighbours with an image's own label
    images: list[Example]  # the lowest share first
    number: int  # of such images
    why_not: str | None = None  # nothing was looked at


def drop_labels(store: Store, run_id: str, images: pl.DataFrame) -> pl.DataFrame:
    """Return what the labels in force say of a drop's images (image_id, path)."""
    table = current_table(store)
    if table is None or not len(images):
        return images.clear().with_columns(label=pl.lit(None, pl.String))
    rows = store.read(table, [*_COLUMNS, "topk_labels"], parts_of_run(store, table, run_id))
    return images.join(rows.unique("image_id"), on="image_id").sort("image_id")


def class_examples(rows: pl.DataFrame) -> list[ClassExamples]:
    """Choose images of the classes that most of a drop's images have; rows as of `drop_labels`."""
    labelled = rows.filter(pl.col("label").is_not_null())
    if not len(labelled):
        return []
    counts = labelled["label"].value_counts().sort(["count", "label"], descending=[True, False])
    found = []
    for label, count in counts.head(_CLASSES).iter_rows():
        own = labelled.filter(pl.col("label") == label)
        best, own = _take(own, "confidence", descending=True)
        worst, own = _take(own, "confidence")
        unsure, _ = _take(own.filter(pl.col("margin") < _NEAR), "margin")
        found.append(ClassExamples(label, count, best, worst, unsure))
    return found


def strangest(rows: pl.DataFrame) -> list[Example]:
    """Choose the images that fit the classes the least."""
    if not len(rows) or "unknown_score" not in rows.columns:
        return []
    order = ["unknown_score", "image_id"]
    top = rows.sort(order, descending=[True, False]).head(_STRANGEST)
    return [
        Example(image_id, path, f"{label or 'no label'}, unknown {unknown:.2f}")
        for image_id, path, label, unknown in top.select(
            "image_id", "path", "label", "unknown_score"
        ).iter_rows()
    ]


def disagreement(store: Store, run_id: str, rows: pl.DataFrame) -> Disagreement:
    """Compare a drop's labels with those of the neighbours that the store has kept.

    Nothing is searched. Rows as of `drop_labels`.
    """
    table, labels = neighbours_table(indexed(store)), current_table(store)
    parts = parts_of_run(store, table, run_id)
    if labels is None or not len(rows) or not parts:
        return Disagreement(0, None, [], 0, "no neighbours of these images are kept")
    near = store.read(table, ["image_id", "neighbours"], parts)
    near = rows.select("image_id", "path", "label", "label_index").join(near, on="image_id")
    near = near.filter(pl.col("label_index") >= 0)
    if not len(near):
        return Disagreement(0, None, [], 0, "no image of this drop has a label and neighbours")
    every = store.read(labels, ["image_id", "label_index", "label"]).unique("image_id")
    theirs = labels_of(near["neighbours"], every.select("image_id", "label_index"))
    share, said = compare(near["label_index"].to_numpy().astype(np.int64), theirs)
    names = dict(every.select("label_index", "label").unique().drop_nulls().iter_rows())
    lowest = [
        (float(share[i]), row[0], row[1], row[2], names.get(int(said[i]), "another"))
        for i, row in enumerate(near.select("image_id", "path", "label").iter_rows())
        if said[i] >= 0 and share[i] < 0.5 and names.get(int(said[i])) != row[2]
    ]
    lowest.sort()
    shown = [
        Example(image_id, path, f"{label}; its neighbours: {other} ({100 * part:.0f} % agree)")
        for part, image_id, path, label, other in lowest[:_DISAGREEING]
    ]
    known = share[~np.isnan(share)]
    mean = float(known.mean()) if len(known) else None
    return Disagreement(len(known), mean, shown, len(lowest))


def _take(
    rows: pl.DataFrame, by: str, *, descending: bool = False
) -> tuple[list[Example], pl.DataFrame]:
    """Return the first few images by a column, and the rows of the others."""
    first = rows.sort([by, "image_id"], descending=[descending, False]).head(_PER_GROUP)
    wanted = first.select("image_id", "path", "confidence", "margin", "topk_labels")
    taken = [
        Example(image_id, path, _words(confidence, margin, likeliest))
        for image_id, path, confidence, margin, likeliest in wanted.iter_rows()
    ]
    return taken, rows.join(first, on="image_id", how="anti")


def _words(confidence: float, margin: float, likeliest: list[str]) -> str:
    """Say how sure an image's label is, and what else it may be."""
    near = margin < _NEAR and len(likeliest) > 1
    return f"{confidence:.2f}, or {likeliest[1]}" if near else f"{confidence:.2f}"
