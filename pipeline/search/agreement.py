"""Agreement: do an image's nearest images have its label?

An independent look at labels, but no estimate of accuracy: labels and neighbours come of the same
vectors, so that their errors agree, too.
Shapes: N images in the index, K neighbours.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.arrays import Ints
from pipeline.catalog import present_images
from pipeline.labels.labelling import current_labels
from pipeline.search.index import load_index
from pipeline.search.neighbours import load_neighbourhood
from pipeline.store import Store


@dataclass(frozen=True)
class ClassAgreement:
    """How far the images of a class lie among their like."""

    label: str
    images: int
    agreement: float  # mean share of neighbours with the same label, 0 to 1
    next_to: str | None  # the other label that its neighbours have most often


@dataclass(frozen=True)
class Agreement:
    """The labels in force beside those of the neighbours."""

    images: pl.DataFrame  # image_id, path, label, score, agreement, neighbours_say; worst first
    per_class: list[ClassAgreement]  # worst first
    mean: float | None  # over all images; null: none has neighbours


def agreement(store: Store) -> Agreement:
    """Compare the label of each image that is there with the labels of its neighbours.

    Args:
        store: its labels, index and neighbours must be there; what has no neighbours is left out.

    Raises:
        InputError: no labels or no index yet.
    """
    run, index = current_labels(store), load_index(store)
    names = run.label_set.names
    labels = store.read(run.table, ["image_id", "label", "label_index", "score"]).unique("image_id")
    there = present_images(store).join(labels, on="image_id", how="inner", maintain_order="left")
    told = pl.DataFrame({"image_id": index.ids}).join(
        there, on="image_id", how="left", maintain_order="left"
    )
    own = told["label_index"].fill_null(-1).to_numpy().astype(np.int64)
    share, theirs = compare(own, load_neighbourhood(store, index).of(np.arange(len(index)))[0])
    said = pl.Series([names[label] if label >= 0 else None for label in theirs], dtype=pl.String)
    images = (
        told.with_columns(agreement=pl.Series(share), neighbours_say=said)
        .filter(pl.col("label").is_not_null() & pl.col("agreement").is_not_nan())
        .sort(["agreement", "score", "image_id"], descending=[False, True, False])
        .select("image_id", "path", "label", "score", "agreement", "neighbours_say")
    )
    mean = images["agreement"].mean()
    return Agreement(images, _per_class(images), None if mean is None else float(str(mean)))


def compare(own: Ints, near: Ints) -> tuple[npt.NDArray[np.float64], Ints]:
    """Return the share of neighbours with an image's own label, and the label most of them have.

    Args:
        own: (N,) labels; -1: none.
        near: (N, K) neighbours; -1: none.

    Returns:
        (N,) shares, NaN where no neighbour has a label; (N,) labels, -1 there. At a tie the label
        of the nearer neighbour.
    """
    return compare_labels(own, np.where(near >= 0, own[near], -1))


def compare_labels(own: Ints, theirs: Ints) -> tuple[npt.NDArray[np.float64], Ints]:
    """Do as `compare`, given the labels of the neighbours themselves (N, K); -1: none."""
    known = theirs >= 0
    count = known.sum(axis=1)
    same = ((theirs == own[:, None]) & known).sum(axis=1)
    with np.errstate(invalid="ignore"):
        share = np.where(count > 0, same / count, np.nan)
    votes = ((theirs[:, :, None] == theirs[:, None, :]) & known[:, None, :]).sum(axis=2)
    first = np.where(known, votes, -1).argmax(axis=1)
    return share, theirs[np.arange(len(own)), first]


def _per_class(images: pl.DataFrame) -> list[ClassAgreement]:
    other = images.filter(pl.col("neighbours_say") != pl.col("label"))
    often = (
        other.group_by("label", "neighbours_say")
        .len()
        .sort(["len", "neighbours_say"], descending=[True, False])
        .unique("label", keep="first", maintain_order=True)
        .select("label", next_to="neighbours_say")
    )
    rows = (
        images.group_by("label")
        .agg(pl.len(), pl.col("agreement").mean())
        .join(often, on="label", how="left")
        .sort("agreement", "label")
        .select("label", "len", "agreement", "next_to")
    )
    return [ClassAgreement(*row) for row in rows.iter_rows()]
