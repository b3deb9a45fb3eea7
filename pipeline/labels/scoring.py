"""Zero-shot scores: image and text vectors in, the probability of every class out.

Plain NumPy: nothing here touches a disk, a model or Prefect.
Shapes: N images, C classes, R reject prompts, W = C + R, D embedding dimensions.
Row i of every result belongs to image i.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.arrays import Floats, require_unit_rows
from pipeline.identity import EncoderIdentity
from pipeline.label_set import LabelVectors

Unknown = Literal["cosine", "mcm", "energy", "reject"]


@dataclass(frozen=True)
class Scores:
    """How well every class fits every image."""

    classes: Floats  # (N, C) probabilities; softmax: with `rejects` a row sums to 1
    rejects: Floats  # (N, R); multi-label: (N, 0)
    unknown: Floats  # (N,) the higher, the less any class fits: see `Scorer`


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
