"""Predict: a trained head's answer for every image of a store, or for vectors just made.

Shapes: N images, D embedding dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.arrays import Floats
from pipeline.catalog import present_images
from pipeline.clip.protocol import ImageEncoder
from pipeline.errors import InputError
from pipeline.identity import digest
from pipeline.label_set import LabelSet
from pipeline.labels.voting import top
from pipeline.store import Store
from pipeline.tables import PREDICTIONS
from pipeline.training.freshness import HEAD, head_fingerprint
from pipeline.training.models import SavedHead, load_head
from pipeline.training.side.information import read_side
from pipeline.vectors import iterate_vectors

TABLE = f"predictions/{HEAD}"


@dataclass(frozen=True)
class PredictSummary:
    """What one prediction pass did."""

    table: str
    predicted: int


def predict_store(
    store: Store, *, top_k: int, encoder: Callable[[], ImageEncoder]
) -> PredictSummary:
    """Write `predictions/mlp` for the parts that this head has not answered for yet.

    Args:
        store: it must hold a trained head.
        top_k: labels kept per image.
        encoder: called only when side texts are to be embedded.

    Raises:
        InputError: there is no trained head.
    """
    head = load_head(store)
    paths = dict(present_images(store).select("image_id", "path").iter_rows())
    predicted = 0
    for part, ids, vectors in iterate_vectors(store):
        made_of = digest([head_fingerprint(store), top_k, store.fingerprint("embeddings", part)])
        if store.fingerprint(TABLE, part) == made_of:
            continue
        names = [paths.get(image_id, "") for image_id in ids]
        images = pl.DataFrame({"image_id": ids, "path": names})
        answers = predict_vectors(store, head, vectors.astype(np.float32), images, encoder)
        rows = _rows(ids, answers, head.classes, top_k)
        store.write_part(TABLE, part, rows, made_of)
        predicted += len(rows)
    return PredictSummary(table=TABLE, predicted=predicted)


def predict_vectors(
    store: Store,
    head: SavedHead,
    vectors: Floats,
    images: pl.DataFrame,
    encoder: Callable[[], ImageEncoder],
) -> Floats:
    """Return the head's class probabilities (N, C) for (N, D) image vectors.

    Args:
        store: caches side texts.
        head: as `load_head` returns it.
        vectors: rows of unit length, of the encoder that the head was trained on.
        images: image_id and path of the images, for side information.
        encoder: called only when side texts are to be embedded.

    Raises:
        InputError: the vectors are of another dimension than the head's.
    """
    label_set = LabelSet.model_validate(head.about["label_set"])
    side = read_side(store, head.side.settings, label_set, encoder, images).encode(head.side)
    sizes = head.head.sizes
    if (vectors.shape[1], side.shape[1]) != (sizes["image"], sizes["side"]):
        raise InputError(
            f"the head takes {sizes['image']} numbers of an image and {sizes['side']} beside it, "
            f"these are {vectors.shape[1]} and {side.shape[1]}: train it again for this encoder"
        )
    return head.head.predict_proba(vectors, side)


def ranked_labels(answers: Floats, classes: list[str], top_k: int) -> pl.DataFrame:
    """Return label, score, topk_labels and topk_scores of (N, C) probabilities."""
    places = top(answers, top_k)
    scores = np.take_along_axis(answers, places, axis=1)
    labels = np.array(classes, object)[places]
    return pl.DataFrame(
        {
            "label": labels[:, 0].tolist(),
            "score": scores[:, 0].astype(np.float32),
            "topk_labels": labels.tolist(),
            "topk_scores": scores.astype(np.float32).tolist(),
        },
        schema={
            "label": pl.String,
            "score": pl.Float32,
            "topk_labels": pl.List(pl.String),
            "topk_scores": pl.List(pl.Float32),
        },
    )


def _rows(ids: list[str], answers: Floats, classes: list[str], top_k: int) -> pa.Table:
    frame = ranked_labels(answers, classes, top_k)
    frame = frame.with_columns(pl.Series("image_id", ids, pl.String))
    return frame.select(PREDICTIONS.names).to_arrow().cast(PREDICTIONS)
