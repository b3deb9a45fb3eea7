"""The one interface of all heads, and what they are made from.

Shapes: N images, D image dimensions, S side dimensions (0: image alone), C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Floats
from pipeline.training.samples import Source

Loss = Literal["cross-entropy", "generalised"]
Fusion = Literal["concat", "gated", "dynamic"]
PairLoss = Literal["contrastive", "triplet"]


@dataclass(frozen=True)
class TextClassifier:
    """What the texts of the classes say of an image: softmax of scale x images @ vectors.T."""

    names: tuple[str, ...]  # C
    vectors: Floats  # (C, D), rows of unit length
    scale: float  # the model's own


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """The knobs of all heads; units, ranges and defaults are in `config.TrainConfig`."""

    loss: Loss
    label_smoothing: float
    soft_targets: bool
    mixup: float
    pull: float
    hidden: int
    dropout: float
    fusion: Fusion
    learning_rate: float
    weight_decay: float
    batch_size: int
    max_epochs: int
    patience: int
    seed: int
    device: str  # cpu, cuda or cuda:1
    pair_loss: PairLoss = "contrastive"  # of the head pairwise
    margin: float = 0.2  # of its triplets, in cosine, 0 to 2
    image_pairs: float = 0.1  # weight of image with image beside image with text; 0: none
    context_tokens: int = 4  # of the head prompt, at least 1
    hold: float = 8.0  # of its text vectors where they began, 0 or more; as KgCoOp has it


@dataclass(frozen=True)
class Epoch:
    """One pass over the training split."""

    train_loss: float
    valid_loss: float


OnEpoch = Callable[[Epoch], None]


@dataclass(frozen=True)
class History:
    """How a head came to be; a head that is not fitted in epochs has none."""

    epochs: list[Epoch]
    best_epoch: int  # its index


@dataclass(frozen=True)
class Saved:
    """A fitted head as data: all that `load` needs."""

    about: dict[str, Any]  # JSON
    tensors: dict[str, npt.NDArray[np.generic]]


class Head(Protocol):
    """Turns (N, D) image vectors and (N, S) side vectors into probabilities of C classes."""

    kind: ClassVar[str]  # its name in the config, in files and in tables

    def fit(self, train: Source, valid: Source, on_epoch: OnEpoch) -> History:
        """Fit to the samples; the same settings and samples give the same weights.

        The global random state is left as it was.

        Args:
            train: the samples to learn from, at least one of each of two classes.
            valid: the samples that decide when to stop; may be empty.
            on_epoch: told of each epoch as it ends.

        Raises:
            InputError: no epoch ended with a finite loss, or the samples are not for this head.
        """

    def predict_proba(self, images: Floats, side: Floats) -> Floats:
        """Return class probabilities (N, C), rows that sum to 1."""

    def save(self) -> Saved:
        """Return the fitted head as data."""

    @classmethod
    def load(cls, saved: Saved) -> Self:
        """Return the head that was saved; it answers as that one did, on the CPU."""
