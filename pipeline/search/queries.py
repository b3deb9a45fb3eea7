"""Queries: a vector in, a table of the most similar images that are still there out."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.arrays import Floats
from pipeline.catalog import present_images
from pipeline.errors import InputError
from pipeline.labels.labelling import current_labels
from pipeline.search.index import load_index
from pipeline.store import Store


@dataclass(frozen=True)
class Filters:
    """Which images may answer; None and 0 let all pass."""

    label: str | None = None
    min_confidence: float = 0.0
    path_contains: str | None = None


def find_similar(store: Store, query: Floats, k: int, filters: Filters = Filters()) -> pl.DataFrame:
    """Find the k images most similar to a vector, among those present and let pass.

    Args:
        store: the store to search.
        query: (1, D), of unit length.
        k: at least 1.
        filters: which images may answer.

    Returns:
        image_id, path, label, score, confidence, cosine; most similar first.

    Raises:
        InputError: the store has no index yet, or a filter needs labels that are not there.
    """
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}")
    index = load_index(store)
    about = _images_with_labels(store)
    if filters.label is not None:
        labels = set(about["label"].drop_nulls())
        if filters.label not in labels:
            raise InputError(f"no image is labelled {filters.label!r}; there are {sorted(labels)}")
        about = about.filter(pl.col("label") == filters.label)
    if filters.min_confidence > 0:
        about = about.filter(pl.col("confidence") >= filters.min_confidence)
    if filters.path_contains is not None:
        about = about.filter(pl.col("path").str.contains(filters.path_contains, literal=True))
    passing = set(about["image_id"])
    among = np.flatnonzero([image_id in passing for image_id in index.ids])
    if not len(among):
        return about.clear().with_columns(cosine=pl.Series([], dtype=pl.Float32))
    found = index.search(query, min(k, len(among)), among)
    hits = pl.DataFrame(
        {
            "image_id": [index.ids[row] for row in found.rows[0]],
            "cosine": found.cosines[0].astype(np.float32),
        }
    )
    return hits.join(about, on="image_id", how="left", maintain_order="left").select(
        *about.columns, "cosine"
    )


def _images_with_labels(store: Store) -> pl.DataFrame:
    images = present_images(store).select("image_id", "path")
    try:
        table = current_labels(store).table
    except InputError:  # embedded, not labelled yet: look-up by similarity works all the same
        nothing = [pl.lit(None, pl.String).alias("label")]
        nothing += [pl.lit(None, pl.Float32).alias(name) for name in ("score", "confidence")]
        return images.with_columns(nothing)
    labels = store.read(table, ["image_id", "label", "score", "confidence"]).unique("image_id")
    return images.join(labels, on="image_id", how="left", maintain_order="left")
