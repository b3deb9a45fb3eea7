"""The siamese head: image vectors and text vectors, each projected onto one common unit sphere.

An image is labelled by the text nearest to it there; images and texts can be searched there, too.
Shapes: n samples of a batch, D image dimensions, S side dimensions (ignored), C classes, M texts.
"""

from dataclasses import replace
from typing import ClassVar, Self, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipeline.arrays import Floats
from pipeline.errors import InputError
from pipeline.training.checking import require_finite
from pipeline.training.fitting import Batch, Objective, fit_network
from pipeline.training.heads.base import HeadSettings, History, OnEpoch, Saved, TextClassifier
from pipeline.training.losses import sample_losses, weighted_mean
from pipeline.training.pair_losses import contrast_of_images, triplet
from pipeline.training.samples import Source
from pipeline.training.scaling import matched_scale, mean_confidence

_TEMPERATURE = 0.1  # of images among themselves, as Khosla et al. 2020 have it
_ROWS = 8192  # projected at a time
_ENOUGH = 20_000  # images to fit the scale to: one number needs no more


class Projection(nn.Module):
    """x + a small MLP of x, back onto the unit sphere; before it has learnt anything: x.

    Residual and with a last layer of zeros, as in CLIP-Adapter, Gao et al. 2021, arXiv 2110.04544:
    the head begins as the text classifier it is made from, and what no label speaks against stays
    where the model put it.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        """Make a projection of D = width."""
        super().__init__()
        last = nn.Linear(hidden, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), last
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (any, D), rows of unit length, of (any, D), rows of unit length."""
        # An element of a unit row is about 1 / sqrt(D): so is what the layers add to it.
        return functional.normalize(rows + self.layers(rows) / rows.shape[1] ** 0.5, dim=1)


class Siamese(nn.Module):
    """Two projections, the vectors of the classes' texts, and the scale of the answers."""

    classes: torch.Tensor  # (C, D), rows of unit length
    scale: torch.Tensor  # what cosines are multiplied by

    def __init__(self, classes: Floats, scale: float, hidden: int, dropout: float) -> None:
        """Make a network for C text vectors of D dimensions."""
        super().__init__()
        self.image_side = Projection(classes.shape[1], hidden, dropout)
        self.text_side = Projection(classes.shape[1], hidden, dropout)
        self.register_buffer("classes", torch.from_numpy(classes.copy()))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the projections of images (n, D) and of the classes' texts (C, D)."""
        return self.image_side(images), self.text_side(self.classes)


class PairwiseHead:
    """A siamese network; as a head, the softmax of scale x cosine with the texts of the classes.

    Its loss is contrastive (cross-entropy over the texts, and images of one class against all
    others) or a triplet's. Afterwards the scale is set so that the head is as sure of what was
    held out as the text classifier: a triplet loss has no scale, and one that was learnt with the
    weights would be too sure.
    """

    kind: ClassVar[str] = "pairwise"

    def __init__(self, text: TextClassifier, settings: HeadSettings) -> None:
        """Make a head that answers as the text classifier does until it is fitted."""
        self._settings: HeadSettings | None = settings
        self._text, self._names = text, text.names
        self._network = self._made(text.vectors, text.scale, settings.hidden, settings.dropout)

    def fit(self, train: Source, valid: Source, on_epoch: OnEpoch) -> History:
        """Fit, as `Head` says; the side vectors are not looked at."""
        assert self._settings is not None, "a head that was loaded is not fitted again"
        settings = replace(self._settings, mixup=0.0)  # a mixed image is of no class
        classes, scale = self._text.vectors, self._text.scale
        if train.sizes[0] != classes.shape[1]:
            raise InputError(
                f"head pairwise: images of {train.sizes[0]} dimensions, texts of "
                f"{classes.shape[1]}: they are of two models; `pseudolabel relabel` first"
            )
        network, history = fit_network(
            lambda: Siamese(classes, scale, settings.hidden, settings.dropout),
            train,
            valid,
            classes=len(classes),
            settings=settings,
            on_epoch=on_epoch,
            objective=objective(settings),
        )
        self._network = network
        images = _some(valid if len(valid) else train, settings)
        sure = mean_confidence(images @ classes.T, scale)
        self._network.scale.fill_(matched_scale(self._cosines(images), sure, scale))
        return history

    def predict_proba(self, images: Floats, side: Floats) -> Floats:  # noqa: ARG002
        """Return class probabilities (N, C), as `Head` says.

        Raises:
            InputError: a vector is of another size, or holds what is no number.
        """
        logits = torch.from_numpy(self._cosines(images)) * self._network.scale
        return cast(Floats, functional.softmax(logits, dim=1).numpy())

    def embed_images(self, images: Floats) -> Floats:
        """Return (N, D) of image vectors (N, D): unit rows, near those of like images and texts.

        Raises:
            InputError: a vector is of another size, or holds what is no number.
        """
        return self._projected(self._network.image_side, images)

    def embed_texts(self, texts: Floats) -> Floats:
        """Return (M, D) of text vectors (M, D), of whatever texts: unit rows, to search with.

        Raises:
            InputError: a vector is of another size, or holds what is no number.
        """
        return self._projected(self._network.text_side, texts)

    def save(self) -> Saved:
        """Return the head as data."""
        tensors = {key: value.numpy() for key, value in self._network.state_dict().items()}
        return Saved({"names": list(self._names)}, dict(tensors))

    @classmethod
    def load(cls, saved: Saved) -> Self:
        """Return the head that was saved; it answers as that one did, on the CPU."""
        head = cls.__new__(cls)
        head._settings, head._names = None, tuple(saved.about["names"])
        hidden = len(saved.tensors["image_side.layers.1.bias"])
        classes = cast(Floats, saved.tensors["classes"])
        head._network = cls._made(classes, 1.0, hidden, 0.0)
        head._network.load_state_dict({k: torch.from_numpy(v) for k, v in saved.tensors.items()})
        return head

    @staticmethod
    def _made(classes: Floats, scale: float, hidden: int, dropout: float) -> Siamese:
        with torch.random.fork_rng(devices=[]):  # it begins as the identity, whatever is drawn
            return Siamese(classes, scale, hidden, dropout).eval()

    def _cosines(self, images: Floats) -> Floats:
        texts = self._projected(self._network.text_side, self._network.classes.numpy())
        cosines: Floats = self.embed_images(images) @ texts.T
        return cosines

    @torch.inference_mode()
    def _projected(self, side: Projection, rows: Floats) -> Floats:
        width = self._network.classes.shape[1]
        if rows.shape[1] != width:
            raise InputError(
                f"the head takes vectors of {width} dimensions, these have {rows.shape[1]}: train "
                "it again for this encoder"
            )
        require_finite(rows, "vector")
        answers = np.empty(rows.shape, np.float32)
        for at in range(0, len(rows), _ROWS):
            part = np.ascontiguousarray(rows[at : at + _ROWS], np.float32)
            answers[at : at + _ROWS] = side(torch.from_numpy(part)).numpy()
        return answers


def _some(samples: Source, settings: HeadSettings) -> Floats:
    """Return the images (N, D) of some samples, of all where there are not many."""
    parts: list[Floats] = []
    for batch in samples.batches(settings.batch_size, settings.seed):
        parts.append(batch.images)
        if sum(map(len, parts)) >= _ENOUGH:
            break
    return np.concatenate(parts)


def objective(settings: HeadSettings) -> Objective:
    """Return what the siamese network minimises."""

    def mean_loss(network: nn.Module, batch: Batch, smoothing: float) -> torch.Tensor:
        siamese = cast(Siamese, network)
        images, texts = siamese(batch.images)
        hard = batch.targets if batch.targets.ndim == 1 else batch.targets.argmax(dim=1)
        if settings.pair_loss == "triplet":
            return triplet(images, texts, hard, batch.weights, margin=settings.margin)
        logits = siamese.scale * images @ texts.T
        losses = sample_losses(logits, batch.targets, settings.loss, smoothing)
        alike = contrast_of_images(images, hard, batch.weights, temperature=_TEMPERATURE)
        return weighted_mean(losses, batch.weights) + settings.image_pairs * alike

    return mean_loss
