"""The head over the image alone: LayerNorm, one hidden layer with GELU and dropout.

Shapes: D image dimensions, C classes.
"""

from typing import ClassVar

import torch

from pipeline.training.heads.base import HeadSettings
from pipeline.training.heads.fusion import ConcatFusion, Shape
from pipeline.training.heads.network import NetworkHead


class MlpHead(NetworkHead):
    """An MLP over the images; what side information there is, it does not look at."""

    kind: ClassVar[str] = "mlp"
    uses_side: ClassVar[bool] = False

    @classmethod
    def of(cls, classes: int, sizes: tuple[int, int], settings: HeadSettings) -> "MlpHead":
        """Make one for C classes and images of D = sizes[0]."""
        return cls(Shape(sizes[0], 0, settings.hidden, classes, settings.dropout), settings)

    @staticmethod
    def _make(shape: Shape) -> ConcatFusion:
        return _ImageNetwork(shape)


class _ImageNetwork(ConcatFusion):
    def forward(self, images: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        return super().forward(images, side[:, :0])
