"""Agreement: do an image's nearest images have its label?

An independent look at labels, but no estimate of accuracy: labels and neighbours come of the same
vectors, so that their errors agree, too. What is read is the table of neighbours, a block of rows
at a time; no vector is, and nothing is searched.
Shapes: N images, n of a block, K neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.arrays import Ints
from pipeline.catalog import current_files, present_images
from pipeline.errors import InputError
from pipeline.labels.labelling import current_labels
from pipeline.labels.refinement import NEIGHBOURS
from pipeline.search.index import indexed
from pipeline.search.neighbours import neighbours_table
from pipeline.store import Store
from pipeline.tables import ABSTAIN

_BLOCK = 65_536  # images at a time: some 100 bytes a neighbour
_WORST = 5  # classes that a summary tells of
_SCHEMA = {
    "image_id": pl.String,
    "label_index": pl.Int32,
    "agreement": pl.Float64,
    "theirs": pl.Int32,
}


@dataclass(frozen=True)
class ClassAgreement:
    """How far the images of a class lie among their like."""

    label: str
    images: int
    agreement: float  # mean share of neighbours with the same label, 0 to 1
    next_to: str | None  # the other label that most neighbours of an image have, most often


@dataclass(frozen=True)
class Agreement:
    """The labels in force beside those of the neighbours."""

    images: pl.DataFrame  # image_id, path, label, score, agreement, neighbours_say; worst first
    per_class: list[ClassAgreement]  # worst first
    mean: float | None  # over all images; null: none has neighbours


@dataclass(frozen=True)
class Tally:
    """Some images, in a few numbers."""

    images: int  # that have a label, and neighbours with one
    mean: float | None  # share of neighbours with the same label; null: there is no such image
    alone: int  # none of whose neighbours has the label


@dataclass(frozen=True)
class AgreementSummary:
    """The agreement of a store, for the summary of a run."""

    all: Tally
    drop: Tally  # of the images that the run brought
    worst: list[ClassAgreement]  # the classes that agree least


def agreement(store: Store) -> Agreement:
    """Compare the label of each image that is there with the labels of its neighbours.

    Args:
        store: its labels and neighbours must be there; what has no neighbours is left out.

    Raises:
        InputError: no labels or no neighbours yet.
    """
    compared = label_agreement(store)
    if compared is None:
        raise InputError(
            f"{store.location}: no neighbours were searched yet; `pseudolabel labels agreement` "
            "does it"
        )
    run = current_labels(store)
    scores = store.read(run.table, ["image_id", "score"]).unique("image_id")
    names = run.label_set.names
    images = (
        compared.join(present_images(store), on="image_id")
        .join(scores, on="image_id")
        .with_columns(label=_named("label_index", names), neighbours_say=_named("theirs", names))
        .sort(["agreement", "score", "image_id"], descending=[False, True, False])
        .select("image_id", "path", "label", "score", "agreement", "neighbours_say")
    )
    return Agreement(images, by_class(compared, names), tally(compared).mean)


def summarise(store: Store, run_id: str) -> AgreementSummary | None:
    """Tell in a few numbers how far images agree with their neighbours.

    Args:
        store: it must hold labels.
        run_id: of the run whose images are told apart.

    Returns:
        None where no neighbours were searched.

    Raises:
        InputError: no labels yet.
    """
    compared = label_agreement(store)
    if compared is None:
        return None
    brought = current_files(store, ["image_id", "run_id"]).filter(pl.col("run_id") == run_id)
    return AgreementSummary(
        all=tally(compared),
        drop=tally(compared.join(brought, on="image_id", how="semi")),
        worst=by_class(compared, current_labels(store).label_set.names)[:_WORST],
    )


def label_agreement(store: Store, only: pl.Series | None = None) -> pl.DataFrame | None:
    """Return the agreement of each labelled image that is there, in no order.

    Args:
        store: it must hold labels.
        only: the ids of the images that are asked for; all when None.

    Returns:
        image_id, label_index, agreement (0 to 1), theirs (the index of the label that most of its
        neighbours have); without images that have no neighbour with a label. None where no
        neighbours were searched.

    Raises:
        InputError: no labels yet.
    """
    if not store.parts(neighbours_table(indexed(store))):
        return None
    labels = (
        store.read(current_labels(store).table, ["image_id", "label_index"])
        .filter(pl.col("image_id").is_first_distinct() & (pl.col("label_index") != ABSTAIN))
        .join(present_images(store), on="image_id", how="semi")
    )
    asked = labels if only is None else labels.filter(pl.col("image_id").is_in(only.implode()))
    return store.steadily(lambda: _beside_neighbours(store, labels, asked))


def compare(own: Ints, theirs: Ints) -> tuple[npt.NDArray[np.float64], Ints]:
    """Return the share of neighbours with an image's own label, and the label most of them have.

    Args:
        own: (n,) labels.
        theirs: (n, K) labels of the neighbours, nearest first; -1: none.

    Returns:
        (n,) shares, NaN where no neighbour has a label; (n,) labels, -1 there. At a tie the label
        of the nearer neighbour.
    """
    known = theirs >= 0
    count = known.sum(axis=1)
    same = ((theirs == own[:, None]) & known).sum(axis=1)
    with np.errstate(invalid="ignore"):
        share = np.where(count > 0, same / count, np.nan)
    votes = np.zeros_like(theirs)
    for place in range(theirs.shape[1]):  # (n, K) at a time, not (n, K, K)
        votes += theirs == theirs[:, place, None]
    first = np.where(known, votes, -1).argmax(axis=1)
    return share, theirs[np.arange(len(own)), first]


def tally(compared: pl.DataFrame) -> Tally:
    """Count images of `label_agreement`."""
    mean = compared["agreement"].mean()
    alone = int((compared["agreement"] == 0).sum())
    return Tally(len(compared), None if mean is None else float(str(mean)), alone)


def by_class(compared: pl.DataFrame, names: Sequence[str]) -> list[ClassAgreement]:
    """Return each class that images of `label_agreement` have, the one that agrees least first."""
    other = compared.filter(pl.col("theirs") != pl.col("label_index"))
    often = (
        other.group_by("label_index", "theirs")
        .len()
        .sort(["len", "theirs"], descending=[True, False])
        .unique("label_index", keep="first", maintain_order=True)
        .select("label_index", next_to="theirs")
    )
    rows = (
        compared.group_by("label_index")
        .agg(pl.len(), pl.col("agreement").mean())
        .join(often, on="label_index", how="left")
        .sort("agreement", "label_index")
        .select("label_index", "len", "agreement", "next_to")
    )
    return [
        ClassAgreement(names[label], images, mean, None if near is None else names[near])
        for label, images, mean, near in rows.iter_rows()
    ]


def _beside_neighbours(store: Store, labels: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    """Read the neighbours of the images `asked` (image_id, label_index), and compare."""
    table = neighbours_table(indexed(store))
    found = [pl.DataFrame(schema=_SCHEMA)]
    for part in store.parts(table):
        held = store.read(table, ["image_id", "neighbours"], [part])
        for block in held.join(asked, on="image_id", how="inner").iter_slices(_BLOCK):
            own = block["label_index"].to_numpy().astype(np.int64)
            share, most = compare(own, labels_of(block["neighbours"], labels))
            compared = block.select("image_id", "label_index").with_columns(
                agreement=pl.Series(share), theirs=pl.Series(most.astype(np.int32))
            )
            found.append(compared.filter(pl.col("agreement").is_not_nan()))
    return pl.concat(found).filter(pl.col("image_id").is_first_distinct())


def labels_of(neighbours: pl.Series, labels: pl.DataFrame) -> Ints:
    """Return (n, K) labels of n lists of ids; -1 where one is not in `labels`.

    Args:
        neighbours: (n,) lists of at most K image ids, nearest first.
        labels: image_id, label_index; each image once.
    """
    theirs = np.full((len(neighbours), NEIGHBOURS), -1, np.int64)
    long = (
        pl.DataFrame({"near": neighbours})
        .with_row_index("row")
        .with_columns(place=pl.int_ranges(0, pl.col("near").list.len()))
        .explode("near", "place")
        .join(labels.rename({"image_id": "near"}), on="near", how="inner")
    )
    theirs[long["row"], long["place"]] = long["label_index"]
    return theirs


def _named(column: str, names: Sequence[str]) -> pl.Expr:
    return pl.col(column).replace_strict(
        dict(enumerate(names)), default=None, return_dtype=pl.String
    )
