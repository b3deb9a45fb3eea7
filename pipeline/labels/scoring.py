"""Zero-shot scores: image and text vectors in; a label, its score and a right to abstain out.

Plain NumPy: nothing here touches a disk, a model or Prefect.
Shapes: N images, C classes, R reject prompts, D embedding dimensions, K = min(top_k, C).
Row i of every result belongs to image i.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.arrays import Bools, Floats, Ints, require_unit_rows
from pipeline.identity import EncoderIdentity
from pipeline.label_set import LabelVectors
from pipeline.tables import ABSTAIN

Unknown = Literal["cosine", "mcm", "energy", "reject"]

_FEW = 16  # columns that are sorted in no time; labels that are soon found one by one
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Scores:
    """How well every class fits every image."""

    classes: Floats  # (N, C) probabilities; softmax: with `rejects` a row sums to 1
    rejects: Floats  # (N, R); multi-label: (N, 0)
    unknown: Floats  # (N,) the higher, the less any class fits: see `Scorer`


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
    unknown: Bools  # (N,) whether no class fits well enough


class Scorer:
    """The text side of the question, checked once: it scores images block by block.

    CLIP (Radford et al. 2021): softmax of scale x cosine. Models trained with a sigmoid loss
    (SigLIP, Zhai et al. 2023): sigmoid of scale x cosine + bias, each class on its own.
    Multi-label with a softmax model: each class against the likeliest reject prompt, so that
    classes do not compete.

    How unknown an image is, by the way asked for:
    cosine: 1 - largest cosine with a class, 0 to 2. mcm: 1 - largest softmax of the cosines
    themselves (Ming et al., NeurIPS 2022, temperature 1). energy: 1 - log-sum-exp of scale x
    cosine, divided by scale (Liu et al., NeurIPS 2020). reject: the reject prompts' probability.
    """

    def __init__(
        self,
        classes: Floats,
        *,
        scale: float,
        bias: float | None = None,
        rejects: Floats | None = None,
        unknown: Unknown = "cosine",
        multi_label: bool = False,
    ) -> None:
        """Take what is the same for every image.

        Args:
            classes: (C, D), rows of unit length, one per class. C is at least 2; 1 if multi-label.
            scale: the model's own factor on cosine similarity, above 0.
            bias: the model's own logit bias; None for a softmax model.
            rejects: (R, D), rows of unit length: texts for "none of these".
            unknown: how the unknown are told.
            multi_label: any number of classes may apply to an image.

        Raises:
            ValueError: a shape is wrong, a row is not of unit length (NaN included), scale <= 0, or
                reject prompts are needed and there are none.
        """
        if rejects is None:
            rejects = np.empty((0, classes.shape[-1]), np.float32)
        for name, rows in (("classes", classes), ("rejects", rejects)):
            require_unit_rows(name, rows)
        if rejects.shape[1] != classes.shape[1]:
            raise ValueError(
                f"classes are {classes.shape[1]} wide, rejects {rejects.shape[1]}: two models?"
            )
        if len(classes) < 2 - multi_label:
            raise ValueError(f"need at least 2 classes to choose between, got {len(classes)}")
        if not scale > 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        if not len(rejects) and (unknown == "reject" or (multi_label and bias is None)):
            raise ValueError("reject prompts are needed to compare the classes with, got none")
        self.texts = np.concatenate([classes, rejects]).astype(np.float32, copy=False)  # (W, D)
        self.independent = multi_label or bias is not None  # a row does not sum to 1
        self._classes, self._scale, self._bias = len(classes), np.float32(scale), bias
        self._unknown, self._multi_label = unknown, multi_label

    @property
    def width(self) -> int:
        """Return W = C + R."""
        return len(self.texts)

    def __call__(self, images: Floats) -> Scores:
        """Score (N, D) images, rows of unit length; N may be 0.

        Raises:
            ValueError: they are of another width, or a row is not of unit length (NaN included).
        """
        require_unit_rows("images", images)
        if images.shape[1] != self.texts.shape[1]:
            raise ValueError(
                f"images are {images.shape[1]} wide, classes {self.texts.shape[1]}: two models?"
            )
        table = images @ self.texts.T  # (N, C + R): cosines, then in their place probabilities
        unknown = self._unknown_by_cosines(table[:, : self._classes])
        table *= self._scale
        if self._bias is not None:
            table += np.float32(self._bias)
        elif self._multi_label:
            table -= table[:, self._classes :].max(axis=1, keepdims=True)
        if self.independent:
            _sigmoid(table)
        else:
            table -= table.max(axis=1, keepdims=True)  # exponents <= 0: no overflow
            np.exp(table, out=table)
            table /= table.sum(axis=1, keepdims=True)
        classes, rejects = table[:, : self._classes], table[:, self._classes :]
        if self._unknown == "reject":
            unknown = self._unknown_by_rejects(classes, rejects)
        return Scores(classes, rejects[:, :0] if self._multi_label else rejects, unknown)

    def _unknown_by_cosines(self, cosines: Floats) -> Floats:
        if self._unknown == "mcm":
            best = cosines.max(axis=1, keepdims=True)
            return np.asarray(1 - 1 / np.exp(cosines - best).sum(axis=1), np.float32)
        largest = cosines.max(axis=1)
        if self._unknown == "energy":
            rest = np.exp(self._scale * (cosines - largest[:, None])).sum(axis=1)
            largest = largest + np.log(rest) / self._scale
        return np.asarray(1 - largest, np.float32)

    def _unknown_by_rejects(self, classes: Floats, rejects: Floats) -> Floats:
        if self._multi_label and self._bias is None:  # a reject prompt was what they were held to
            return np.asarray(1 - classes.max(axis=1), np.float32)
        found: Floats = rejects.max(axis=1) if self.independent else rejects.sum(axis=1)
        return found


def _sigmoid(table: Floats) -> None:
    """Put the sigmoid of every number in its place."""
    # exp of a very negative logit may be infinity, and 1 / infinity is the right 0.
    with np.errstate(over="ignore"):
        np.exp(np.negative(table, out=table), out=table)
    table += 1
    np.reciprocal(table, out=table)


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


def scorer(
    vectors: LabelVectors,
    identity: EncoderIdentity,
    *,
    unknown: Unknown = "cosine",
    multi_label: bool = False,
) -> Scorer:
    """Return what scores images against a label set, with their encoder's own scale and bias.

    Raises:
        ValueError: as `Scorer`.
    """
    return Scorer(
        vectors.classes,
        scale=identity.logit_scale,
        bias=identity.logit_bias,
        rejects=vectors.rejects,
        unknown=unknown,
        multi_label=multi_label,
    )


def vote(
    scores: Scores, *, top_k: int, abstain_below: float, unknown_above: float = np.inf
) -> Votes:
    """Take the likeliest class of each image, abstaining where the evidence is weak.

    Args:
        scores: as `score` returns them.
        top_k: labels to keep per image; with fewer classes, all of them.
        abstain_below: abstain below this probability, not at it.
        unknown_above: abstain where `scores.unknown` is higher.
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
    unknown = scores.unknown > unknown_above
    weak = (best < abstain_below) | (rejected_by >= 0) | unknown
    kept = min(top_k, table.shape[1])
    alone = table.shape[1] == 1  # with no runner-up
    return Votes(
        label=np.where(weak, ABSTAIN, top_labels[:, 0]),
        score=best,
        margin=best if alone else best - top_scores[:, 1],
        entropy=_entropy(table),
        top_labels=top_labels[:, :kept],
        top_scores=top_scores[:, :kept],
        rejected_by=rejected_by,
        unknown=unknown,
    )


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
