"""What the stages need of a model, apart from any model: naming it need not load torch.

Shapes: B images of a batch, H x W the model's input size, N texts, D embedding dimensions.
"""

from collections.abc import Sequence
from typing import Protocol

from pipeline.arrays import Floats, Pixels
from pipeline.identity import EncoderIdentity
from pipeline.images.decoding import Fit


class ImageEncoder(Protocol):
    """Turns pictures and texts into vectors of one space; tests pass one of their own."""

    identity: EncoderIdentity

    @property
    def fit(self) -> Fit:
        """What resizes and crops an RGB image to the model's input size; it can be pickled."""

    def encode_images(self, pixels: Pixels) -> Floats:
        """Turn (B, H, W, 3) into (B, D), rows of unit length."""

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Turn N texts into (N, D), rows of unit length."""
