"""The linear head: the text classifier, moved only as far as the samples have reasons to move it.

Shapes: N images, n samples of a batch, D image dimensions, C classes.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import softmax

from pipeline.arrays import Doubles, Floats
from pipeline.errors import InputError
from pipeline.training.checking import require_finite, require_sizes, require_sound
from pipeline.training.devices import device_named
from pipeline.training.gathering import gathered
from pipeline.training.heads.base import (
    Epoch,
    HeadSettings,
    History,
    OnEpoch,
    Saved,
    TextClassifier,
)
from pipeline.training.losses import sample_losses
from pipeline.training.samples import Source

_ROWS = 8192  # looked at together
_IN_MEMORY = 1 << 30  # bytes of vectors; more are read anew for each step
_PULLED_AS = 1000  # samples
_GRADIENT = 1e-5  # of any weight: smaller than that is the bottom, as far as float32 can see


class LinearHead:
    """softmax(scale T x + M (x - m) / s + b): T the texts, M and b learnt, both pulled toward 0.

    Minimises the weighted mean loss + pull / 2 (|M|^2 + |b|^2), where m is the mean of the training
    images and s their mean distance from it, so that `pull` means the same for any encoder; fewer
    than 1,000 samples are pulled 1,000 / n times as hard. With much pull it is the text classifier;
    a class without samples stays where its text put it, as far as the pull goes. Labels are not
    smoothed: texts are surer than smoothed labels, so that most of what is learnt would be doubt,
    and names that fit no image would gain by it. No validation split is needed. With cross-entropy
    the problem is convex and taken as a whole (L-BFGS): there is one answer, and neither a seed nor
    batches to choose it.

    A classifier that begins at the text's weights and is held to them: CLAP, Silva-Rodriguez et al.
    2024, arXiv 2312.12730; LP++, Huang et al. 2024, arXiv 2404.02285.
    """

    kind: ClassVar[str] = "linear"

    def __init__(self, text: TextClassifier, settings: HeadSettings) -> None:
        """Make a head that answers as the text classifier does until it is fitted.

        Of the settings it takes loss, soft_targets, pull, device and max_epochs,
        each of which is a step of L-BFGS here.
        """
        self._settings: HeadSettings | None = settings
        self._texts: Floats = (text.scale * text.vectors).astype(np.float32)
        self._weights, self._bias = self._texts, np.zeros(len(self._texts), np.float32)

    def fit(self, train: Source, valid: Source, on_epoch: OnEpoch) -> History:  # noqa: ARG002
        """Fit, as `Head` says; `valid` is not looked at, and an epoch is a step of L-BFGS."""
        assert self._settings is not None, "a head that was loaded is not fitted again"
        require_sizes(train.sizes, (self._texts.shape[1], train.sizes[1]))
        if not len(train):
            raise InputError("there are no samples to train on")
        whole = gathered(train, _IN_MEMORY) or train
        problem = _Problem(whole, self._texts, self._settings)
        epochs: list[Epoch] = []

        def told(intermediate_result: object) -> None:
            loss = float(intermediate_result.fun)  # type: ignore[attr-defined]
            epochs.append(Epoch(loss, loss))
            on_epoch(epochs[-1])

        found = minimize(
            problem.loss_and_gradient,
            np.zeros(self._texts.size + len(self._texts)),
            method="L-BFGS-B",
            jac=True,
            callback=told,
            options={"maxiter": self._settings.max_epochs, "gtol": _GRADIENT, "ftol": 1e-9},
        )
        if not math.isfinite(found.fun):
            raise InputError("training diverged: the loss is not finite; raise train.pull")
        self._weights, self._bias = problem.layer(found.x)
        return History(epochs, max(0, len(epochs) - 1))

    def predict_proba(self, images: Floats, side: Floats) -> Floats:
        """Return class probabilities (N, C), as `Head` says."""
        require_sizes((images.shape[1], side.shape[1]), (self._weights.shape[1], side.shape[1]))
        require_finite(images, "image vector")
        answers: Floats = softmax(images @ self._weights.T + self._bias, axis=1)
        return answers

    def save(self) -> Saved:
        """Return the fitted head as data: one linear layer."""
        return Saved({}, {"weights": self._weights, "bias": self._bias})

    @classmethod
    def load(cls, saved: Saved) -> Self:
        """Return the head that was saved."""
        head = cls.__new__(cls)
        head._settings = None
        head._weights = head._texts = saved.tensors["weights"].astype(np.float32)
        head._bias = saved.tensors["bias"].astype(np.float32)
        return head


@dataclass(frozen=True)
class _Scale:
    """What the images are like."""

    mean: Doubles  # (D,)
    spread: float  # root mean square distance from it
    weight: float  # of all samples together


class _Problem:
    """The loss of a linear layer over all samples, and its gradient."""

    def __init__(self, source: Source, texts: Floats, settings: HeadSettings) -> None:
        self._source, self._texts, self._settings = source, texts.astype(np.float64), settings
        self._device = device_named(settings.device)
        self._scale = _measure(source, len(texts), settings.soft_targets)
        self._pull = settings.pull * max(1.0, _PULLED_AS / len(source))

    def layer(self, moved: Doubles) -> tuple[Floats, Floats]:
        """Return weights (C, D) and bias (C,) of the flat parameters M and b."""
        move, bias = self._split(moved)
        slope = move / self._scale.spread
        weights = (self._texts + slope).astype(np.float32)
        return weights, (bias - slope @ self._scale.mean).astype(np.float32)

    def loss_and_gradient(self, moved: Doubles) -> tuple[float, Doubles]:
        """Return the loss at the flat parameters, and its gradient there."""
        settings, scale = self._settings, self._scale
        leaves = [torch.from_numpy(each).to(self._device) for each in self.layer(moved)]
        weights, bias = (each.requires_grad_() for each in leaves)
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for batch in self._source.batches(_ROWS):
            chosen = batch.soft if settings.soft_targets else batch.labels
            assert chosen is not None  # `_measure` saw to it
            images, targets, heavy = (
                torch.from_numpy(each).to(self._device)
                for each in (batch.images, chosen, batch.weights)
            )
            logits = images @ weights.T + bias
            losses = sample_losses(logits, targets, settings.loss, 0.0)
            loss = (losses * heavy).sum(dtype=torch.float64) / scale.weight
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        of_weights, of_bias = (_gradient(each) for each in (weights, bias))
        of_move = (of_weights - np.outer(of_bias, scale.mean)) / scale.spread
        gradient = np.concatenate([of_move.ravel(), of_bias]) + self._pull * moved
        return float(total) + self._pull / 2 * float(moved @ moved), gradient

    def _split(self, moved: Doubles) -> tuple[Doubles, Doubles]:
        return moved[: self._texts.size].reshape(self._texts.shape), moved[self._texts.size :]


def _gradient(leaf: torch.Tensor) -> Doubles:
    assert leaf.grad is not None
    gradient: Doubles = leaf.grad.double().cpu().numpy()
    return gradient


def _measure(source: Source, classes: int, soft: bool) -> _Scale:
    """Go through the samples once: check them and measure their scale."""
    rows, square, weight = 0, 0.0, 0.0
    total: Doubles = np.zeros(source.sizes[0])
    for batch in source.batches(_ROWS):
        require_sound(batch, classes, soft=soft)
        images = batch.images.astype(np.float64)
        rows, total = rows + len(batch), total + images.sum(axis=0)
        square, weight = square + float((images**2).sum()), weight + float(batch.weights.sum())
    mean = total / rows
    spread = math.sqrt(max(0.0, square / rows - float(mean @ mean)))
    return _Scale(mean, spread or 1.0, weight)
