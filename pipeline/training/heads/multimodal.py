"""The head over image and side information; `fusion` says how the two are joined.

Shapes: D image dimensions, S side dimensions, C classes.
"""

from typing import ClassVar

from pipeline.errors import InputError
from pipeline.training.heads.base import HeadSettings
from pipeline.training.heads.fusion import FUSIONS, FusionNetwork, Shape
from pipeline.training.heads.network import NetworkHead


class MultimodalHead(NetworkHead):
    """An MLP over both: concat, gated or dynamic. With S = 0, concat is the MLP of the images."""

    kind: ClassVar[str] = "multimodal"

    @classmethod
    def of(cls, classes: int, sizes: tuple[int, int], settings: HeadSettings) -> "MultimodalHead":
        """Make one for C classes and sizes D and S.

        Raises:
            InputError: its fusion needs side information, and S is 0.
        """
        if settings.fusion != "concat" and not sizes[1]:
            raise InputError(
                f'train.fusion = "{settings.fusion}" joins images with side information, and there '
                "is none: name some (train.side_text), or take the head mlp"
            )
        hidden, dropout = settings.hidden, settings.dropout
        return cls(Shape(*sizes, hidden, classes, dropout, settings.fusion), settings)

    @staticmethod
    def _make(shape: Shape) -> FusionNetwork:
        return FUSIONS[shape.fusion](shape)
