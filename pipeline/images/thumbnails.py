"""Thumbnails: a decoded picture in, a small one out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from PIL import Image

from pipeline.arrays import Pixels
from pipeline.images.decoding import Picture
from pipeline.images.fitting import Fitting

_QUALITY = 85
_REDUCING_GAP = 2.0  # Pillow's, of what is small anyway


@dataclass(frozen=True)
class Within:
    """A `Fit` for `Decoders`: scales a picture down, whole, so that no side is longer."""

    longest: int  # pixels

    def __call__(self, image: Image.Image) -> Image.Image:
        """Scale an RGB picture down in place; a smaller one stays as it is."""
        image.thumbnail((self.longest, self.longest), Image.Resampling.BICUBIC, _REDUCING_GAP)
        return image


def jpeg_of(pixels: Pixels, longest: int) -> bytes:
    """Return a JPEG of (H, W, 3) RGB whose sides are at most `longest` pixels."""
    file = BytesIO()
    Within(longest)(Image.fromarray(pixels)).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()


def finisher(fitting: Fitting) -> Callable[[Picture], Picture]:
    """Return what fits pictures that `Rough(fitting)` left, in pixels of their own."""

    def finish(picture: Picture) -> Picture:
        fitted = fitting.fitted(Image.fromarray(picture.pixels), _REDUCING_GAP)
        return replace(picture, pixels=np.array(fitted))

    return finish
