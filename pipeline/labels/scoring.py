"""Zero-shot scores: image and text vectors in; a label, its score and a right to abstain out.

Plain NumPy: nothing here touches a disk, a model or Prefect.
Shapes: N images, C classes, R reject prompts, D embedding dimensions, K = min(top_k, C).
Row i of every result belongs to image i.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from pipeline.arrays import Floats, Ints, require_unit_rows
from pipeline.identity import EncoderIdentity
from pipeline.label_set import LabelVectors
from pipeline.tables import ABSTAIN

_FEW = 16  # columns that are sorted in no time; labels that are soon found one by one
_TINY = np.finfo(np.float32).tiny


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


class Scorer:
    """The text side of the question, checked once: it scores images block by block.

    CLIP (Radford et al. 2021): softmax of scale x cosine. Models trained with a sigmoid loss
    (SigLIP, Zhai et al. 2023): sigmoid of scale x cosine + bias, each class on its own.
    """

    def __init__(
        self,
        classes: Floats,
        *,
        scale: float,
        bias: float | None = None,
        rejects: Floats | None = None,
    ) -> None:
        """Take what is the same for every image.

        Args:
            classes: (C, D), rows of unit length, one per class. C is at least 2.
            scale: the model's own factor on cosine similarity, above 0.
            bias: the model's own logit bias; None for a softmax model.
            rejects: (R, D), rows of unit length: texts for "none of these".

        Raises:
            ValueError: a shape is wrong, a row is not of unit length (NaN included), or scale <= 0.
        """
        if rejects is None:
            rejects = np.empty((0, classes.shape[-1]), np.float32)
        for name, rows in (("classes", classes), ("rejects", rejects)):
            require_unit_rows(name, rows)
        if rejects.shape[1] != classes.shape[1]:
            raise ValueError(
                f"classes are {classes.shape[1]} wide, rejects {rejects.shape[1]}: two models?"
            )
        if len(classes) < 2:
            raise ValueError(f"need at least 2 classes to choose between, got {len(classes)}")
        if not scale > 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        self.width = len(classes) + len(rejects)  # C + R
        self._classes, self._scale, self._bias = len(classes), np.float32(scale), bias
        self._texts = np.concatenate([classes, rejects]).astype(np.float32, copy=False).T

    def __call__(self, images: Floats) -> Scores:
        """Score (N, D) images, rows of unit length; N may be 0.

        Raises:
            ValueError: they are of another width, or a row is not of unit length (NaN included).
        """
        require_unit_rows("images", images)
        if images.shape[1] != len(self._texts):
            raise ValueError(
                f"images are {images.shape[1]} wide, classes {len(self._texts)}: two models?"
            )
        table = images @ self._texts  # (N, C + R): cosines, then in their place probabilities
        unknown: Floats = 1 - table[:, : self._classes].max(axis=1)
        table *= self._scale
        if self._bias is None:
            table -= table.max(axis=1, keepdims=True)  # exponents <= 0: no overflow
            np.exp(table, out=table)
            table /= table.sum(axis=1, keepdims=True)
        else:
            table += np.float32(self._bias)
            # exp of a very negative logit may be infinity, and 1 / infinity is the right 0.
            with np.errstate(over="ignore"):
                np.exp(np.negative(table, out=table), out=table)
            table += 1
            np.reciprocal(table, out=table)
        return Scores(table[:, : self._classes], table[:, self._classes :], unknown)


def score(
    images: Floats,
    classes: Floats,
    *,
    scale: float,
    bias: float | None = None,
    rejects: Floats | None = None,
) -> Scores:
    """Give every image a probability for every class: a `Scorer` asked once.

    >>> eye = np.eye(2, dtype=np.float32)
    >>> print(score(eye, eye, scale=1.0).classes.round(2))  # 0.73 is e / (e + 1)
    [[0.73 0.27]
     [0.27 0.73]]
    """
    return Scorer(classes, scale=scale, bias=bias, rejects=rejects)(images)


def scorer(vectors: LabelVectors, identity: EncoderIdentity) -> Scorer:
    """Return what scores images against a label set, with their encoder's own scale and bias.

    Raises:
        ValueError: as `Scorer`.
    """
    return Scorer(
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


def joined(votes: Sequence[Votes]) -> Votes:
    """Return the votes of several blocks of images as those of one."""
    columns = (field.name for field in fields(Votes))
    return Votes(**{name: np.concatenate([getattr(v, name) for v in votes]) for name in columns})


def top(table: Floats, k: int) -> Ints:
    """Return the columns (N, min(k, C)) of the k largest of each row, largest first.

    At a tie the lower index comes first.

    Args:
        table: (N, C), above -inf.
        k: at least 1.
    """
    k = min(k, table.shape[1])
    if k == table.shape[1] or table.shape[1] <= _FEW:
        return _sorted(table, k)
    if k <= _FEW:
        return _one_by_one(table, k)
    picked = np.sort(np.argpartition(table, -k, axis=1)[:, -k:], axis=1)
    values = np.take_along_axis(table, picked, axis=1)
    best: Ints = np.take_along_axis(picked, _sorted(values, k), axis=1)
    # Among equals argpartition picks as it likes. Where the smallest one picked has an equal that
    # was left out, the row is sorted whole.
    smallest = values.min(axis=1, keepdims=True)
    tied = (table == smallest).sum(axis=1) > (values == smallest).sum(axis=1)
    best[tied] = _sorted(table[tied], k)
    return best


def _sorted(table: Floats, k: int) -> Ints:
    best: Ints = np.argsort(-table, axis=1, kind="stable")[:, :k]
    return best


def _one_by_one(table: Floats, k: int) -> Ints:
    """Find the first maximum of each row, k times: a fifth of the time of argpartition."""
    best = np.empty((len(table), k), np.int64)
    rest, rows = table.copy(), np.arange(len(table))
    for place in range(k):
        rest.argmax(axis=1, out=best[:, place])
        rest[rows, best[:, place]] = -np.inf
    return best


def _entropy(table: Floats) -> Floats:
    """Return -sum(s log s), s = p / sum(p), as log(sum(p)) - sum(p log p) / sum(p)."""
    total = table.sum(axis=1)
    logs = np.maximum(table, _TINY)  # p log p is 0 at 0
    np.log(logs, out=logs)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.log(total) - np.einsum("ij,ij->i", table, logs) / total
    # A sigmoid model may find no class at all: then every class is equally unlikely.
    entropy = np.where(total > _TINY, entropy, np.log(table.shape[1]))
    found: Floats = np.maximum(entropy, 0).astype(np.float32)
    return found
