"""Heads on frozen embeddings: the multimodal MLP, and logistic regression to compare it with.

Shapes: N samples, D image dimensions, S side dimensions (0: image alone), C classes.
"""

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional

from pipeline.arrays import Floats, Ints
from pipeline.errors import InputError
from pipeline.training.samples import Samples

CLIP_PAPER_C = 0.316  # of logistic regression in the examples of Radford et al. 2021


class MultimodalMLP(nn.Module):
    """LayerNorm, one hidden layer with GELU and dropout, and a linear layer over both inputs."""

    def __init__(self, image: int, side: int, hidden: int, classes: int, dropout: float) -> None:
        """Make a head for D = image, S = side and C = classes."""
        super().__init__()
        self.sizes = {"image": image, "side": side, "hidden": hidden}
        self.layers = nn.Sequential(
            nn.LayerNorm(image + side),
            nn.Linear(image + side, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def forward(self, images: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        """Return logits (N, C) of images (N, D) and side vectors (N, S)."""
        return cast(torch.Tensor, self.layers(torch.cat([images, side], dim=1)))

    @torch.inference_mode()
    def predict_proba(self, images: Floats, side: Floats) -> Floats:
        """Return class probabilities (N, C) of images (N, D) and side vectors (N, S)."""
        self.eval()
        logits = self(torch.from_numpy(images), torch.from_numpy(side))
        return cast(Floats, functional.softmax(logits, dim=1).numpy())


@dataclass(frozen=True)
class MlpSettings:
    """The knobs of `fit_mlp`; units, ranges and defaults are in `config.TrainConfig`."""

    hidden: int
    dropout: float
    label_smoothing: float
    learning_rate: float
    weight_decay: float
    batch_size: int
    max_epochs: int
    patience: int
    seed: int


@dataclass(frozen=True)
class Epoch:
    """One pass over the training split."""

    train_loss: float
    valid_loss: float


@dataclass(frozen=True)
class Fitted:
    """A head at its best epoch, and how it got there."""

    head: MultimodalMLP
    epochs: list[Epoch]
    best_epoch: int


def fit_mlp(train: Samples, valid: Samples, *, classes: int, settings: MlpSettings) -> Fitted:
    """Fit the MLP with AdamW and weighted cross-entropy; stop when `valid` gets no better.

    Label smoothing after Szegedy et al. 2016; it is what keeps an MLP from learning the label noise
    by heart. Where `valid` is empty the training loss decides. The global random state is left as
    it was.

    Args:
        train: the samples to learn from, at least one.
        valid: the samples that decide when to stop.
        classes: C.
        settings: all else; the same settings and samples give the same weights.

    Raises:
        InputError: no epoch ended with a finite loss.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        sizes = train.images.shape[1], train.side.shape[1]
        head = MultimodalMLP(*sizes, settings.hidden, classes, settings.dropout)
        optimizer = torch.optim.AdamW(
            head.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        epochs: list[Epoch] = []
        best, best_loss, best_epoch = head.state_dict(), float("inf"), 0
        watched = valid if len(valid) else train
        for epoch in range(settings.max_epochs):
            head.train()
            total = 0.0
            order = torch.randperm(len(train)).numpy()
            for at in range(0, len(train), settings.batch_size):
                batch = order[at : at + settings.batch_size]
                loss = _loss(head, train, batch, settings.label_smoothing)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += float(loss.detach()) * len(batch)
            head.eval()
            with torch.inference_mode():
                watched_loss = float(_loss(head, watched, np.arange(len(watched)), 0.0))
            epochs.append(Epoch(total / len(train), watched_loss))
            if watched_loss < best_loss:
                best_loss, best_epoch = watched_loss, epoch
                best = {name: tensor.clone() for name, tensor in head.state_dict().items()}
            elif epoch - best_epoch >= settings.patience:
                break
        if not math.isfinite(best_loss):
            raise InputError(
                "training diverged: no epoch had a finite loss; lower train.learning_rate"
            )
        head.load_state_dict(best)
    return Fitted(head, epochs, best_epoch)


def fit_logistic(train: Samples) -> LogisticRegression:
    """Fit scikit-learn's logistic regression to the images alone, as the CLIP paper does."""
    model = LogisticRegression(C=CLIP_PAPER_C, max_iter=1000)
    return model.fit(train.images, train.labels, sample_weight=train.weights)


def _loss(head: MultimodalMLP, samples: Samples, rows: Ints, smoothing: float) -> torch.Tensor:
    logits = head(torch.from_numpy(samples.images[rows]), torch.from_numpy(samples.side[rows]))
    labels = torch.from_numpy(samples.labels[rows])
    losses = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    weights = torch.from_numpy(samples.weights[rows])
    return (losses * weights).sum() / weights.sum()
