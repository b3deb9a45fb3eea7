"""Predict: a saved head's answer for every image of a store, or for vectors just made.

Shapes: N images, D embedding dimensions, C classes.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import cast

import numpy as np
import polars as pl

from pipeline.arrays import Floats
from pipeline.clip.protocol import ImageEncoder
from pipeline.label_set import LabelSet, LabelVectors
from pipeline.labels.question import Question
from pipeline.labels.voting import top
from pipeline.store import Store
from pipeline.training.freshness import head_fingerprint
from pipeline.training.head_labels import HeadLabels, label_by_head
from pipeline.training.models import SavedHead, load_head
from pipeline.training.side.encoding import SideEncoding
from pipeline.training.side.information import read_side


def predict_store(
    store: Store,
    question: Callable[[LabelSet], Question],
    vectors: Callable[[LabelSet], LabelVectors],
    *,
    encoder: Callable[[], ImageEncoder],
    now: datetime,
    on_progress: Callable[[int], None] = lambda _: None,
) -> HeadLabels:
    """Write the saved head's labels, for the parts that it has not answered for yet.

    Args:
        store: it must hold a trained head; its lock must be held.
        question: returns what is too little to be labelled, for the head's own label set.
        vectors: returns the text vectors of a label set.
        encoder: called only when side texts are to be embedded that never were.
        now: the present, with time zone.
        on_progress: told how many images were labelled since it was last told.

    Raises:
        InputError: there is no trained head, or it is of another encoder.
    """
    head = load_head(store)
    label_set = LabelSet.model_validate(head.about["label_set"])

    def answer(images: pl.DataFrame, wide: Floats) -> Floats:
        return predict_vectors(store, head, wide, images, encoder)

    return label_by_head(
        store,
        replace(question(label_set), refine="none"),
        vectors(label_set),
        answer,
        source=f"head:{head.head.kind}",
        made_of=head_fingerprint(store),
        learnt_until=cast("str | None", head.about.get("learnt_until")),
        now=now,
        on_progress=on_progress,
    )


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
        images: image_id and path of each, for side information.
        encoder: called only when side texts are to be embedded.

    Raises:
        InputError: the vectors are of another dimension than the head's.
    """
    side = np.empty((len(vectors), 0), np.float32)
    if head.about["side"]:
        encoding = SideEncoding.from_json(head.about["side"])  # type: ignore[arg-type]
        label_set = LabelSet.model_validate(head.about["label_set"])
        side = read_side(store, encoding.settings, label_set, encoder, images).encode(encoding)
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
