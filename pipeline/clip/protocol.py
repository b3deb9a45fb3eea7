"""What the stages need of a model, apart from any model: naming it need not load torch.

Shapes: B images of a batch, H x W the model's input size, N texts, D embedding dimensions.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from pipeline.arrays import Floats, Pixels
from pipeline.identity import EncoderIdentity
from pipeline.images.decoding import Fit, Picture, Refusal
from pipeline.images.undecoded import Undecoded


@dataclass(frozen=True)
class Lanes:
    """Threads that run a model side by side, a batch each."""

    pool: Executor
    count: int


@dataclass(frozen=True)
class Encoded:
    """What became of a batch."""

    vectors: Floats  # (B, D), rows of unit length, but of zeros where a picture was refused
    refused: Sequence[Refusal | None]  # B, mostly None


Encode = Callable[[Sequence[Picture | Undecoded]], Encoded]


class ImageEncoder(Protocol):
    """Turns pictures and texts into vectors of one space; tests pass one of their own."""

    identity: EncoderIdentity

    @property
    def fit(self) -> Fit:
        """What resizes and crops an RGB image to the model's input size; it can be pickled."""

    def lanes(self) -> AbstractContextManager[Lanes]:
        """Return as many lanes as keep the device busy."""

    def encode_images(self, pixels: Pixels) -> Floats:
        """Turn (B, H, W, 3) into (B, D), rows of unit length.

        Raises:
            MemoryError: the batch is too large for the device.
        """

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """Turn N texts into (N, D), rows of unit length."""

    def cut(self, texts: Sequence[str]) -> list[bool]:
        """Tell which of N texts are longer than what the model reads; False where unknown."""

    def length(self, text: str) -> tuple[int, int]:
        """Return how many tokens a text has and how many are read, start and end mark included."""
