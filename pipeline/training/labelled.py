"""What training and comparing need of a store: who is in which split, what is said of each image.

Shapes: N images, D embedding dimensions, C classes, K labels kept of each image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.arrays import Floats, Ints
from pipeline.catalog import present_images
from pipeline.errors import InputError, StoreError
from pipeline.labels.labelling import current_labels
from pipeline.labels.truth import Truth
from pipeline.store import Store
from pipeline.training.selection import ANSWER_WEIGHT, TABLE
from pipeline.vectors import iterate_vectors

_SELECTED = ["image_id", "label", "weight", "split", "split_group", "kept", "duplicate_group"]
_LABELS = ["image_id", "topk_labels", "topk_scores", "naive_label", "naive_score"]
_IN_FORCE = pl.col("label").alias("in_force")


@dataclass(frozen=True)
class Labelled:
    """Every present, labelled image; what is measured by, and what it is measured on.

    `frame` has image_id, path, naive_label, naive_score, top_label, top_score, topk_labels,
    topk_scores, label, weight, split, split_group, kept, duplicate_group, and `right`: the true
    label where one is known and the image is in the test split; without a truth the pseudo-label of
    the kept images that are held out for validation; null of all others.
    """

    frame: pl.DataFrame
    classes: list[str]  # C, of the label set
    by_truth: bool

    def rows(self, split: str) -> Ints:
        """Return the places in `frame` of the images that a split trains or stops on."""
        chosen = (self.frame["split"] == split) & self.frame["kept"]
        return np.flatnonzero(chosen.fill_null(False).to_numpy())

    def measured(self) -> Ints:
        """Return the places in `frame` of the images that heads are compared on."""
        return np.flatnonzero(self.frame["right"].is_not_null().to_numpy())

    def index_of(self, column: str, rows: Ints) -> Ints:
        """Return the class indices of a column of labels, for some rows; -1: none of the set."""
        names = pl.Series(self.classes, dtype=pl.String)
        index = {name: at for at, name in enumerate(names)}
        return np.array([index.get(name, -1) for name in self.frame[column][rows]], np.int64)


def gather(store: Store, truth: Truth | None) -> Labelled:
    """Read labels and selection.

    Args:
        store: it must hold a selection.
        truth: true labels, of which those in the selection's test split count.

    Raises:
        InputError: none of the selected images is there and labelled, or the selection is of other
            labels than those in force.
    """
    run = current_labels(store)
    labels = store.read(run.table, [*_LABELS, "label"]).unique("image_id")
    labels = labels.select(*_LABELS, _IN_FORCE)
    selection = store.read(TABLE, _SELECTED)
    frame = (
        present_images(store)
        .join(labels, on="image_id", how="inner", maintain_order="left")
        .join(selection, on="image_id", how="left", maintain_order="left")
        .with_columns(
            pl.col("kept").fill_null(False),
            top_label=pl.col("topk_labels").list.first(),
            top_score=pl.col("topk_scores").list.first(),
        )
    )
    if not frame["kept"].any():
        raise InputError(
            f"{store.location}: none of the selected images is there and labelled: "
            "`pseudolabel run` first"
        )
    # What a person named stands whatever the labels say.
    unnamed = pl.col("kept") & (pl.col("weight") != ANSWER_WEIGHT)
    others = frame.filter(unnamed & pl.col("label").ne_missing(pl.col("in_force")))
    if len(others):
        raise InputError(
            f"{store.location}: the selection is of other labels than those in force: "
            f"{len(others)} of the {frame['kept'].sum()} images kept bear another one now. "
            "`pseudolabel select` makes it anew"
        )
    frame = frame.drop("in_force")
    if truth is not None:
        known = pl.DataFrame(
            {"image_id": list(truth.labels), "right": list(truth.labels.values())},
            schema={"image_id": pl.String, "right": pl.String},
        )
        frame = frame.join(known, on="image_id", how="left", maintain_order="left")
        held = pl.col("split") == "test"
    else:
        frame = frame.with_columns(right=pl.col("label"))
        held = (pl.col("split") == "valid") & pl.col("kept")
    frame = frame.with_columns(right=pl.when(held).then("right"))
    return Labelled(frame, run.label_set.names, truth is not None)


def soft_targets(frame: pl.DataFrame, classes: list[str]) -> Floats:
    """Return (N, C) from the labels and scores that are kept; what is left is every other class's.

    Args:
        frame: topk_labels and topk_scores of N images.
        classes: C names.
    """
    flat = frame.select("topk_labels", "topk_scores").with_row_index("row")
    flat = flat.explode("topk_labels", "topk_scores")
    place = {name: at for at, name in enumerate(classes)}
    columns = np.array([place[name] for name in flat["topk_labels"]], np.int64)
    table = np.zeros((len(frame), len(classes)), np.float32)
    told = np.zeros_like(table, bool)
    rows = flat["row"].to_numpy()
    table[rows, columns], told[rows, columns] = flat["topk_scores"].to_numpy(), True
    left = np.maximum(0.0, 1.0 - table.sum(axis=1, keepdims=True))
    others = np.maximum(1, (~told).sum(axis=1, keepdims=True))
    table = np.where(told, table, left / others).astype(np.float32)
    table /= table.sum(axis=1, keepdims=True)
    return table


def vectors_of(store: Store, *wanted: Sequence[str]) -> list[Floats]:
    """Return, for each of some lists of image ids, their vectors (N, D), row by row.

    The store is gone through once, for all lists together.

    Raises:
        StoreError: an image has no vector: its part was deleted by hand.
    """
    identity = store.identity()
    width = identity.dimension if identity else 0
    places = [{image_id: row for row, image_id in enumerate(ids)} for ids in wanted]
    vectors = [np.zeros((len(ids), width), np.float32) for ids in wanted]
    for _, found, part in iterate_vectors(store):
        for place, held in zip(places, vectors, strict=True):
            pairs = [(place[i], row) for row, i in enumerate(found) if i in place]
            if pairs:
                targets, sources = zip(*pairs, strict=True)
                held[list(targets)] = part[list(sources)]
    bare = {
        ids[row]
        for ids, held in zip(wanted, vectors, strict=True)
        for row in np.flatnonzero(~held.any(axis=1)).tolist()
    }
    if bare:
        raise StoreError(
            f"{store.location}: {len(bare)} labelled images have no vector: their file is gone "
            "from embeddings/. `pseudolabel verify`, then `pseudolabel run`, makes them again"
        )
    return vectors
