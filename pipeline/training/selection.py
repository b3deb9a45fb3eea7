"""Select: the confident, balanced, de-duplicated subset, and a reason for each image left out."""

import hashlib
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.catalog import present_images
from pipeline.identity import digest
from pipeline.labels.confidence import calibration_state
from pipeline.labels.labelling import current_labels
from pipeline.search.duplicates import near_duplicate_leaders
from pipeline.search.index import SearchIndex, load_index
from pipeline.store import Store
from pipeline.tables import SELECTIONS

TABLE = "selections/default"
_PART = "selection"


@dataclass(frozen=True)
class SelectSummary:
    """What was kept and why the rest was not."""

    kept: int
    left_out: dict[str, int]  # images by reason
    per_class: dict[str, int]  # kept images by label


def select(
    store: Store,
    *,
    min_confidence: float,
    max_per_class: int,
    duplicate_cosine: float,
    valid_share: float,
) -> SelectSummary:
    """Select from the current labels of the images that are present, and write `selections`.

    Of each group of near-duplicates the most confident image stands for all. A threshold alone is
    one of the worse ways to choose training data, for confident classes crowd out the rest; the cap
    per class holds them back.

    Args:
        store: the store to read from and write to.
        min_confidence: 0 to 1; at it is kept.
        max_per_class: the most confident ones stay.
        duplicate_cosine: images at least this similar show the same.
        valid_share: share of the kept images that is held out for early stopping.

    Raises:
        InputError: the store has no labels or no index yet.
    """
    run = current_labels(store)
    wanted = ["image_id", "label", "confidence", "calibrated", "reason"]
    labels = store.read(run.table, wanted).unique("image_id")
    images = present_images(store).join(labels, on="image_id", how="inner", maintain_order="left")
    rows = choose(
        _grouped(best_first(images), load_index(store), duplicate_cosine),
        min_confidence=min_confidence,
        max_per_class=max_per_class,
        valid_share=valid_share,
    )
    settings = [min_confidence, max_per_class, duplicate_cosine, valid_share]
    made_of = selection_fingerprint(store, settings)
    table = rows.select(SELECTIONS.names).to_arrow().cast(SELECTIONS)
    store.write_part(TABLE, _PART, table, made_of)
    kept = rows.filter("kept")
    reasons = rows.filter(~pl.col("kept"))["reason"].str.replace(r"^(near-duplicate) of .*", "$1")
    return SelectSummary(
        kept=len(kept),
        left_out=dict(sorted(reasons.value_counts().iter_rows())),
        per_class=dict(sorted(kept["label"].value_counts().iter_rows())),
    )


def choose(
    images: pl.DataFrame,
    *,
    min_confidence: float,
    max_per_class: int,
    valid_share: float,
) -> pl.DataFrame:
    """Decide for each image, given label, confidence, reason (of abstaining) and group.

    Args:
        images: image_id, label, confidence, reason, and group, which near-duplicates share; with
            `calibrated`, a reason says "score" where no audit made it a confidence.
        min_confidence: 0 to 1; at it is kept.
        max_per_class: the most confident ones stay.
        valid_share: share of the kept images that is held out for early stopping.

    Returns:
        The columns of `tables.SELECTIONS`, best image first.
    """
    known = "calibrated" not in images.columns or images["calibrated"].all()
    measure = "confidence" if known else "score"
    own = pl.coalesce(pl.col("group").cast(pl.String), pl.col("image_id"))  # null is no group
    ranked = best_first(images.with_columns(group=own))
    twins = pl.len().over("group") > 1
    leader = pl.col("image_id").first().over("group")
    confident = pl.col("label").is_not_null() & (pl.col("confidence") >= min_confidence)
    candidate = confident & (leader == pl.col("image_id"))
    place = candidate.cast(pl.Int64).cum_sum().over("label")
    reason = (
        pl.when(pl.col("label").is_null())
        .then(pl.concat_str(pl.lit("abstained: "), pl.col("reason").fill_null("no label")))
        .when(pl.col("confidence") < min_confidence)
        .then(pl.lit(f"{measure} below {min_confidence:g}"))
        .when(leader != pl.col("image_id"))
        .then(pl.concat_str(pl.lit("near-duplicate of "), leader))
        .when(place > max_per_class)
        .then(pl.lit(f"more than {max_per_class} of its class"))
        .otherwise(None)
    )
    decided = ranked.with_columns(
        reason=reason, duplicate_group=pl.when(twins).then(leader).otherwise(None)
    ).with_columns(kept=pl.col("reason").is_null())
    splits = [
        split_of(image_id, valid_share) if kept else None
        for image_id, kept in decided.select("image_id", "kept").iter_rows()
    ]
    return decided.with_columns(
        pl.Series("split", splits, pl.String),
        weight=pl.when("kept").then(pl.col("confidence")).otherwise(0.0),
    )


def best_first(images: pl.DataFrame) -> pl.DataFrame:
    """Sort images: labelled before abstained, then by confidence.

    The image id breaks ties, so that the same images give the same selection in any order.
    """
    return images.sort(
        [pl.col("label").is_null(), "confidence", "image_id"], descending=[False, True, False]
    )


def split_of(image_id: str, valid_share: float) -> str:
    """Return train or valid by a hash: an image keeps its side whatever else arrives.

    The image id is hashed once more, for it may itself have been used to choose files.
    """
    fraction = int(hashlib.sha256(f"split:{image_id}".encode()).hexdigest()[:8], 16) / 16**8
    return "valid" if fraction < valid_share else "train"


def selection_fingerprint(store: Store, settings: list[float]) -> str:
    """Return what the selection would be made of now."""
    table = current_labels(store).table
    made_of = [store.state("files", "embeddings", table), settings]
    calibration = calibration_state(store, table)
    return digest([*made_of, calibration] if calibration else made_of)


def is_current(store: Store, settings: list[float]) -> bool:
    """Tell whether the written selection is the one that would be written now."""
    return store.fingerprint(TABLE, _PART) == selection_fingerprint(store, settings)


def selection_state(store: Store) -> str:
    """Return the fingerprint of the written selection; empty when there is none."""
    return store.fingerprint(TABLE, _PART) or ""


def _grouped(ranked: pl.DataFrame, index: SearchIndex, cosine: float) -> pl.DataFrame:
    """Add the column group: the image that stands for this one and its near-duplicates."""
    place = {image_id: rank for rank, image_id in enumerate(ranked["image_id"])}
    # An image that is gone is still in the index; it stands behind all that are there.
    rank = np.array([place.get(image_id, len(place)) for image_id in index.ids], np.int64)
    leaders = near_duplicate_leaders(index, rank, cosine=cosine)
    groups = {"image_id": index.ids, "group": [index.ids[row] for row in leaders]}
    return ranked.join(pl.DataFrame(groups), on="image_id", how="left", maintain_order="left")
