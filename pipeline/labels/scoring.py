"""Zero-shot scores: image and text vectors in; a label, its score and a right to abstain out.

Plain NumPy: nothing here touches a disk, a model or Prefect.
Shapes: N images, C classes, R reject prompts, D embedding dimensions, K = min(top_k, C).
Row i of every result belongs to image i.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Floats, Ints, require_unit_rows
from pipeline.identity import EncoderIdentity
from pipeline.label_set import LabelVectors
from pipeline.tables import ABSTAIN


@dataclass(frozen=True)
class Scores:
    """How well every class fits every image."""

    classes: Floats  # (N, C) probabilities; softmax: with `rejects` a row sums to 1
    rejects: Floats  # (N, R)
    unknown: Floats  # (N,) 1 - largest cosine with a class, 0 to 2


@dataclass(frozen=True)
class Votes:
    """One vote per image."""

    label: Ints  # (N,) index of the likeliest class, or ABSTAIN
    score: Floats  # (N,) probability of the likeliest class, abstained or not
    margin: Floats  # (N,) its lead over the runner-up, 0 to 1
    entropy: Floats  # (N,) in nats, of the class scores made to sum to 1
    top_labels: Ints  # (N, K) likeliest first; at a tie the lower index
    top_scores: Floats  # (N, K)
    rejected_by: Ints  # (N,) the reject prompt that beat every class, or -1


def score(
    images: Floats,
    classes: Floats,
    *,
    scale: float,
    bias: float | None = None,
    rejects: Floats | None = None,
) -> Scores:
    """Give every image a probability for every class.

    CLIP (Radford et al. 2021): softmax of scale x cosine. Models trained with a sigmoid loss
    (SigLIP, Zhai et al. 2023): sigmoid of scale x cosine + bias, each class on its own.

    Args:
        images: (N, D), rows of unit length. N may be 0.
        classes: (C, D), rows of unit length, one per class. C is at least 2.
        scale: the model's own factor on cosine similarity, above 0.
        bias: the model's own logit bias; None for a softmax model.
        rejects: (R, D), rows of unit length: texts for "none of these".

    Raises:
        ValueError: a shape is wrong, a row is not of unit length (NaN included), or scale <= 0.

    >>> eye = np.eye(2, dtype=np.float32)
    >>> print(score(eye, eye, scale=1.0).classes.round(2))  # 0.73 is e / (e + 1)
    [[0.73 0.27]
     [0.27 0.73]]
    """
    if rejects is None:
        rejects = np.empty((0, classes.shape[-1]), np.float32)
    for name, rows in (("images", images), ("classes", classes), ("rejects", rejects)):
        require_unit_rows(name, rows)
        if rows.shape[1] != images.shape[1]:
            raise ValueError(
                f"images are {images.shape[1]} wide, {name} {rows.shape[1]}: two models?"
            )
    if len(classes) < 2:
        raise ValueError(f"need at least 2 classes to choose between, got {len(classes)}")
    if not scale > 0:
        raise ValueError(f"scale must be above 0, got {scale}")

    cosines = images @ np.concatenate([classes, rejects]).T
    unknown: Floats = 1 - cosines[:, : len(classes)].max(axis=1)
    logits = scale * cosines
    if bias is None:
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))  # exponents <= 0: no overflow
        probabilities = weights / weights.sum(axis=1, keepdims=True)
    else:
        # exp of a very negative logit may overflow to infinity, and 1 / infinity is the right 0.
        with np.errstate(over="ignore"):
            probabilities = 1 / (1 + np.exp(-(logits + np.float32(bias))))
    return Scores(
        classes=probabilities[:, : len(classes)],
        rejects=probabilities[:, len(classes) :],
        unknown=unknown,
    )


def score_labels(images: Floats, vectors: LabelVectors, identity: EncoderIdentity) -> Scores:
    """Score (N, D) images against a label set's vectors, with their encoder's own scale and bias.

    Raises:
        ValueError: as `score`.
    """
    return score(
        images,
        vectors.classes,
        scale=identity.logit_scale,
        bias=identity.logit_bias,
        rejects=vectors.rejects,
    )


def vote(scores: Scores, *, top_k: int, abstain_below: float) -> Votes:
    """Take the likeliest class of each image, abstaining where the evidence is weak.

    Args:
        scores: as `score` returns them.
        top_k: labels to keep per image; with fewer classes, all of them.
        abstain_below: abstain below this probability, not at it.
    """
    table = scores.classes
    top_labels = top(table, max(top_k, 2))
    top_scores = np.take_along_axis(table, top_labels, axis=1)
    best = top_scores[:, 0]
    rejected_by = np.full(len(table), -1, np.int64)
    if scores.rejects.shape[1]:
        strongest = scores.rejects.argmax(axis=1)
        beaten = scores.rejects.max(axis=1) > best
        rejected_by[beaten] = strongest[beaten]
    weak = (best < abstain_below) | (rejected_by >= 0)
    kept = min(top_k, table.shape[1])
    return Votes(
        label=np.where(weak, ABSTAIN, top_labels[:, 0]),
        score=best,
        margin=best - top_scores[:, 1],
        entropy=_entropy(table),
        top_labels=top_labels[:, :kept],
        top_scores=top_scores[:, :kept],
        rejected_by=rejected_by,
    )


def top(table: Floats, k: int) -> Ints:
    """Return the columns (N, min(k, C)) of the k largest of each row, largest first.

    At a tie the lower index comes first.
    """
    k = min(k, table.shape[1])
    if k == table.shape[1]:
        return np.argsort(-table, axis=1, kind="stable").astype(np.int64)
    picked = np.sort(np.argpartition(table, -k, axis=1)[:, -k:], axis=1)
    values = np.take_along_axis(table, picked, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    best = np.take_along_axis(picked, order, axis=1)
    # Among equals argpartition picks as it likes. Where the smallest one picked has an equal that
    # was left out, the row is sorted whole.
    smallest = values.min(axis=1, keepdims=True)
    tied = (table == smallest).sum(axis=1) > (values == smallest).sum(axis=1)
    best[tied] = np.argsort(-table[tied], axis=1, kind="stable")[:, :k]
    return best.astype(np.int64)


def _entropy(table: Floats) -> Floats:
    total = table.sum(axis=1, keepdims=True)
    # A sigmoid model may find no class at all: then every class is equally unlikely.
    share = np.where(total > 0, table / np.maximum(total, 1e-30), 1 / table.shape[1])
    logs = np.log(np.maximum(share, 1e-30))
    entropy: Floats = np.maximum(-(share * logs).sum(axis=1), 0).astype(np.float32)
    return entropy
