"""Thumbnails: a decoded picture in, a small JPEG out."""

from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from pipeline.arrays import Pixels

_QUALITY = 85


@dataclass(frozen=True)
class Within:
    """A `Fit` for `Decoders`: scales a picture down, whole, so that no side is longer."""

    longest: int  # pixels

    def __call__(self, image: Image.Image) -> Image.Image:
        """Scale an RGB picture down in place; a smaller one stays as it is."""
        image.thumbnail((self.longest, self.longest), Image.Resampling.BICUBIC, reducing_gap=2.0)
        return image


def jpeg_of(pixels: Pixels, longest: int) -> bytes:
    """Return a JPEG of (H, W, 3) RGB whose sides are at most `longest` pixels."""
    file = BytesIO()
    Within(longest)(Image.fromarray(pixels)).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()
