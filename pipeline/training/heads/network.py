"""What the heads share that are torch networks over images and side information.

Shapes: N images, D image dimensions, S side dimensions (0: image alone), C classes.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import ClassVar, Self

import numpy as np
import torch
from torch.nn import functional

from pipeline.arrays import Floats
from pipeline.training.checking import require_finite, require_sizes
from pipeline.training.fitting import fit_network
from pipeline.training.heads.base import HeadSettings, History, OnEpoch, Saved
from pipeline.training.heads.fusion import FusionNetwork, Shape
from pipeline.training.samples import Source

_LOOKED_AT = 16_384  # samples that tell mean and deviation of the side values
_ROWS = 1024  # predicted at a time: a dynamic MLP makes 64 KB of weights for each


class NetworkHead(ABC):
    """A head that is a network; `network(images, side)` gives logits (n, C)."""

    kind: ClassVar[str]
    uses_side: ClassVar[bool] = True

    def __init__(self, shape: Shape, settings: HeadSettings | None) -> None:
        """Make a head that is not fitted yet; settings are for fitting only."""
        self._shape, self._settings = shape, settings
        self._network: FusionNetwork | None = None

    @staticmethod
    @abstractmethod
    def _make(shape: Shape) -> FusionNetwork:
        """Return the network with fresh weights."""

    def fit(self, train: Source, valid: Source, on_epoch: OnEpoch) -> History:
        """Fit, as `Head` says."""
        settings = self._settings
        assert settings is not None, "a head that was loaded is not fitted again"
        self._require(*train.sizes)

        def ready() -> FusionNetwork:
            network = self._make(self._shape)
            if self._shape.side:
                network.standardise.learn(_some_side(train, settings))
            return network

        self._network, history = fit_network(
            ready,
            train,
            valid,
            classes=self._shape.classes,
            settings=settings,
            on_epoch=on_epoch,
        )
        return history

    @torch.inference_mode()
    def predict_proba(self, images: Floats, side: Floats) -> Floats:
        """Return class probabilities (N, C), as `Head` says.

        Raises:
            InputError: a vector is of another size, or holds what is no number.
        """
        network = self._fitted()
        self._require(images.shape[1], side.shape[1])
        require_finite(images, "image vector")
        require_finite(side, "side vector")
        answers = np.empty((len(images), self._shape.classes), np.float32)
        for at in range(0, len(images), _ROWS):
            rows = slice(at, at + _ROWS)
            logits = network(_tensor(images[rows]), _tensor(side[rows]))
            answers[rows] = functional.softmax(logits, dim=1).numpy()
        return answers

    def save(self) -> Saved:
        """Return the fitted head as data."""
        tensors = {key: value.numpy() for key, value in self._fitted().state_dict().items()}
        return Saved({"shape": asdict(self._shape)}, tensors)

    @classmethod
    def load(cls, saved: Saved) -> Self:
        """Return the head that was saved; it answers as that one did, on the CPU."""
        head = cls(Shape(**saved.about["shape"]), None)
        network = head._make(head._shape)
        network.load_state_dict({k: torch.from_numpy(v) for k, v in saved.tensors.items()})
        head._network = network.eval()
        return head

    def _require(self, image: int, side: int) -> None:
        wanted = self._shape.side if self.uses_side else side
        require_sizes((image, side), (self._shape.image, wanted))

    def _fitted(self) -> FusionNetwork:
        if self._network is None:
            raise ValueError(f"the head {self.kind} is not fitted yet")
        return self._network


def _some_side(train: Source, settings: HeadSettings) -> torch.Tensor:
    """Return side vectors (n, S) of samples drawn by the seed, all where they are few."""
    taken: list[torch.Tensor] = []
    for samples in train.batches(settings.batch_size, settings.seed):
        taken.append(torch.from_numpy(samples.side))
        if sum(map(len, taken)) >= _LOOKED_AT:
            break
    return torch.cat(taken)


def _tensor(rows: Floats) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows, np.float32))
