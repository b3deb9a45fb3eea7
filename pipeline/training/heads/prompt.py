"""The prompt head: the words around the class names are learnt, through the frozen text tower.

CoOp (Zhou et al. 2022, arXiv 2109.01134) on pseudo-labels, as UPL (Huang et al. 2022, arXiv
2204.03649) does it.
Shapes: N images, D image dimensions, S side dimensions (ignored), C classes, M context tokens, W
the text tower's width.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Self, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipeline.arrays import Floats
from pipeline.clip.learnable import LearnablePrompts
from pipeline.clip.loading import LoadedModel
from pipeline.errors import InputError
from pipeline.training.checking import require_finite
from pipeline.training.fitting import Batch, Objective, fit_network
from pipeline.training.heads.base import HeadSettings, History, OnEpoch, Saved, TextClassifier
from pipeline.training.losses import sample_losses, weighted_mean
from pipeline.training.samples import Source

MOST_CLASSES = 100
_STEPS = 8  # in an epoch, or not many more: each takes every class through the text tower
_LARGEST_BATCH = 16_384


class PromptNetwork(nn.Module):
    """The text classifier, moved by as much as the learnt context moves its prompts.

    Made from the one prompt "a photo of a {}." this is CoOp; made from several templates, aliases
    or whole prompts it still begins exactly as they have it.
    """

    def __init__(self, text: TextClassifier, prompts: LearnablePrompts) -> None:
        """Make a network that answers as the text classifier does."""
        super().__init__()
        self.prompts, self._scale = prompts, text.scale
        with torch.no_grad():
            classes = torch.from_numpy(text.vectors.copy())
            offset = classes - prompts().cpu()
        self.register_buffer("classes", classes, persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        self._held: torch.Tensor | None = None

    classes: torch.Tensor  # (C, D) of the text classifier
    offset: torch.Tensor  # (C, D)

    def vectors(self) -> torch.Tensor:
        """Return the text vectors (C, D), rows of unit length."""
        if self._held is not None:
            return self._held
        moved = self.prompts().to(self.offset.device) + self.offset
        vectors = functional.normalize(moved, dim=1)
        if not self.training:
            self._held = vectors  # the same for every batch that is looked at
        return vectors

    def train(self, mode: bool = True) -> Self:
        """Go on to learn, or to answer with what is learnt by now."""
        self._held = None
        return super().train(mode)

    def forward(self, images: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Return logits (n, C) of images (n, D) and text vectors (C, D)."""
        return self._scale * images @ vectors.T


class PromptHead:
    """Softmax of scale x cosine with text vectors whose prompts are learnt."""

    kind: ClassVar[str] = "prompt"

    def __init__(
        self, text: TextClassifier, settings: HeadSettings, model: Callable[[], LoadedModel] | None
    ) -> None:
        """Make a head that answers as the text classifier does until it is fitted.

        Args:
            text: its names stand in the prompts; its vectors are where they begin.
            settings: the knobs.
            model: loads the model whose text tower is learnt through; called by `fit` only.

        Raises:
            InputError: there are too many classes.
        """
        if len(text.names) > MOST_CLASSES:
            raise InputError(
                f"head prompt: {len(text.names)} classes, and at most {MOST_CLASSES} can be "
                "learnt: each step takes all of them through the text tower. Use linear or mlp"
            )
        self._text, self._model = text, model
        self._settings: HeadSettings | None = settings
        self._context: Floats = np.empty((0, 0), np.float32)

    def fit(self, train: Source, valid: Source, on_epoch: OnEpoch) -> History:
        """Fit, as `Head` says; the side vectors are not looked at.

        Raises:
            InputError: also where the model has no text tower that prompts can be learnt through,
                or does not read one to its end.
        """
        assert self._model is not None and self._settings is not None, "a loaded head is not fitted"
        text, settings = self._text, self._settings
        if train.sizes[0] != text.vectors.shape[1]:
            raise InputError(
                f"head prompt: images of {train.sizes[0]} dimensions, texts of "
                f"{text.vectors.shape[1]}: they are of two models; `pseudolabel relabel` first"
            )
        batch = max(settings.batch_size, math.ceil(len(train) / _STEPS))
        prompts = LearnablePrompts(
            self._model(), text.names, tokens=settings.context_tokens, device=settings.device
        )
        network, history = fit_network(
            lambda: PromptNetwork(text, prompts),
            train,
            valid,
            classes=len(text.names),
            # Decay would pull the context toward no words at all; `hold` pulls to the classifier.
            settings=replace(settings, batch_size=min(batch, _LARGEST_BATCH), weight_decay=0.0),
            on_epoch=on_epoch,
            objective=objective(settings),
        )
        with torch.no_grad():
            vectors = network.eval().vectors().numpy()
        self._text = replace(text, vectors=vectors)
        self._context = prompts.context.detach().cpu().numpy()
        return history

    def predict_proba(self, images: Floats, side: Floats) -> Floats:  # noqa: ARG002
        """Return class probabilities (N, C), as `Head` says; this needs no text tower.

        Raises:
            InputError: a vector is of another size, or holds what is no number.
        """
        vectors = self._text.vectors
        if images.shape[1] != vectors.shape[1]:
            raise InputError(
                f"the head takes {vectors.shape[1]} numbers of an image, these have "
                f"{images.shape[1]}: train it again for this encoder"
            )
        require_finite(images, "image vector")
        logits = torch.from_numpy(self._text.scale * images @ vectors.T)
        return cast(Floats, functional.softmax(logits, dim=1).numpy())

    def save(self) -> Saved:
        """Return the head as data: the context (M, W), and the vectors (C, D) it led to."""
        about = {"names": list(self._text.names), "scale": self._text.scale}
        return Saved(about, {"context": self._context, "vectors": self._text.vectors})

    @classmethod
    def load(cls, saved: Saved) -> Self:
        """Return the head that was saved; it answers as that one did, on the CPU."""
        head = cls.__new__(cls)
        head._settings = head._model = None
        head._context = cast(Floats, saved.tensors["context"])
        vectors = cast(Floats, saved.tensors["vectors"])
        head._text = TextClassifier(tuple(saved.about["names"]), vectors, saved.about["scale"])
        return head


def objective(settings: HeadSettings) -> Objective:
    """Return what the prompts minimise: the classifier's loss, and how far they have moved.

    The latter after KgCoOp, Yao et al. 2023, arXiv 2303.13283: contexts that are free forget what
    the model knew, and with wrong labels fall below the prompts they began as.
    """

    def mean_loss(network: nn.Module, batch: Batch, smoothing: float) -> torch.Tensor:
        prompts = cast(PromptNetwork, network)
        vectors = prompts.vectors()
        logits = prompts(batch.images, vectors)
        losses = sample_losses(logits, batch.targets, settings.loss, smoothing)
        moved = (vectors - prompts.classes).square().sum(dim=1).mean()
        return weighted_mean(losses, batch.weights) + settings.hold * moved

    return mean_loss
