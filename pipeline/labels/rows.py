"""Votes become rows of a labels table.

Shapes: N images, K labels kept of each.
"""

import numpy as np
import pyarrow as pa

from pipeline.arrays import Floats
from pipeline.label_set import LabelSet
from pipeline.labels.scoring import Votes
from pipeline.tables import LABELS


def label_rows(
    ids: pa.Array, votes: Votes, unknown: Floats, label_set: LabelSet, *, abstain_below: float
) -> pa.Table:
    """Return one row of `tables.LABELS` per image.

    Args:
        ids: the image ids, N strings.
        votes: of the same images.
        unknown: (N,) 1 - largest cosine with a class.
        label_set: the classes voted for.
        abstain_below: the bar that the votes were held to, for the reasons.
    """
    vocabulary = pa.array(label_set.names)
    n, k = votes.top_labels.shape
    offsets = pa.array(np.arange(0, n * k + 1, k), pa.int32())
    top_labels = vocabulary.take(pa.array(votes.top_labels.ravel()))
    top_scores = pa.array(votes.top_scores.ravel())
    score = pa.array(votes.score)
    columns = {
        "image_id": ids,
        "label": vocabulary.take(pa.array(votes.label, mask=votes.label < 0)),
        "label_index": pa.array(votes.label.astype(np.int32)),
        "score": score,
        "confidence": score,  # until an audit calibrates it
        "calibrated": pa.array(np.zeros(n, bool)),
        "margin": pa.array(votes.margin),
        "entropy": pa.array(votes.entropy),
        "topk_labels": pa.ListArray.from_arrays(offsets, top_labels),
        "topk_scores": pa.ListArray.from_arrays(offsets, top_scores),
        "unknown_score": pa.array(unknown),
        "reason": _reasons(votes, label_set, abstain_below),
    }
    return pa.table(columns).cast(LABELS)


def _reasons(votes: Votes, label_set: LabelSet, abstain_below: float) -> pa.Array:
    """Say why each image abstained; null where it did not."""
    told = [f"reject prompt: {prompt}" for prompt in label_set.reject]
    told.append(f"score below {abstain_below:g}")
    which = np.where(votes.rejected_by >= 0, votes.rejected_by, len(told) - 1)
    return pa.array(told).take(pa.array(which, mask=votes.label >= 0))
