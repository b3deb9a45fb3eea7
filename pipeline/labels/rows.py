"""Scores become rows of a labels table.

Shapes: N images, K labels kept of each.
"""

from typing import Protocol

import numpy as np
import pyarrow as pa

from pipeline.arrays import Floats, Ints
from pipeline.label_set import LabelSet
from pipeline.labels.scoring import Scores
from pipeline.labels.voting import Votes, vote
from pipeline.tables import LABELS

_APPLIES = 0.5  # a class that is likelier than not


class Bars(Protocol):
    """What decides, beside the scores, whether and how an image is labelled."""

    @property
    def top_k(self) -> int:
        """Labels kept of each image."""

    @property
    def abstain_below(self) -> float:
        """No label below this score, 0 to 1."""

    @property
    def unknown_above(self) -> float:
        """No label above this `unknown_score`."""


def label_rows(
    ids: pa.Array, naive: Scores, refined: Scores, label_set: LabelSet, asked: Bars
) -> pa.Table:
    """Return one row of `tables.LABELS` per image.

    Args:
        ids: the image ids, N strings.
        naive: the model's own scores of the same images.
        refined: those that count; the same where nothing was refined.
        label_set: the classes.
        asked: how many labels are kept, and what is too little to be labelled.
    """
    votes = vote(
        refined,
        top_k=asked.top_k,
        abstain_below=asked.abstain_below,
        unknown_above=asked.unknown_above,
    )
    vocabulary = pa.array(label_set.names)
    score, likeliest = pa.array(votes.score), votes.top_labels[:, 0]
    first = naive.classes.argmax(axis=1)
    columns = {
        "image_id": ids,
        "label": vocabulary.take(pa.array(votes.label, mask=votes.label < 0)),
        "label_index": pa.array(votes.label.astype(np.int32)),
        "score": score,
        "confidence": score,  # until an audit calibrates it
        "calibrated": pa.array(np.zeros(len(ids), bool)),
        "margin": pa.array(votes.margin),
        "entropy": pa.array(votes.entropy),
        "topk_labels": _lists(vocabulary, votes.top_labels),
        "topk_scores": _lists(pa.array(votes.top_scores.ravel()), votes.top_scores),
        "labels": _all_that_apply(vocabulary, refined, votes, label_set, asked),
        "unknown_score": pa.array(refined.unknown),
        "naive_label": vocabulary.take(pa.array(first)),
        "naive_score": pa.array(np.take_along_axis(naive.classes, first[:, None], axis=1)[:, 0]),
        "flipped": pa.array(first != likeliest),
        "reason": _reasons(votes, label_set, asked),
    }
    return pa.table(columns).cast(LABELS)


def _lists(values: pa.Array, table: Ints | Floats) -> pa.Array:
    """Return (N, K) as N lists; integers are places in `values`, others are `values`, in order."""
    n, k = table.shape
    flat = values.take(pa.array(table.ravel())) if table.dtype.kind == "i" else values
    return pa.ListArray.from_arrays(pa.array(np.arange(0, n * k + 1, k), pa.int32()), flat)


def _all_that_apply(
    vocabulary: pa.Array, scores: Scores, votes: Votes, label_set: LabelSet, asked: Bars
) -> pa.Array:
    """Return every class that is likelier than not, in the label set's order; multi-label only.

    An image that abstained has none.
    """
    n = len(votes.label)
    if not label_set.multi_label:
        return pa.nulls(n, pa.list_(pa.string()))
    applies = scores.classes >= max(_APPLIES, asked.abstain_below)
    applies &= (votes.label >= 0)[:, None]
    offsets = np.concatenate([[0], applies.sum(axis=1).cumsum()]).astype(np.int32)
    named = vocabulary.take(pa.array(np.nonzero(applies)[1]))
    return pa.ListArray.from_arrays(pa.array(offsets), named)


def _reasons(votes: Votes, label_set: LabelSet, asked: Bars) -> pa.Array:
    """Say why each image abstained; null where it did not."""
    told = [f"reject prompt: {prompt}" for prompt in label_set.reject]
    told += [f"score below {asked.abstain_below:g}", f"unknown above {asked.unknown_above:g}"]
    otherwise = np.where(votes.unknown, len(told) - 1, len(told) - 2)
    which = np.where(votes.rejected_by >= 0, votes.rejected_by, otherwise)
    return pa.array(told).take(pa.array(which, mask=votes.label >= 0))
