"""Fit: a picture of any size in; one of the model's input size out, as open_clip's transform does.

`Fitting` does it all, bit for bit; `Rough` only what Pillow does fast, and leaves the rest to
whoever has faster tools. Both need Pillow alone and can be pickled, so that processes which decode
never load torch.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

Size = tuple[int, int]  # height, width, in pixels: the order of open_clip
_MARGIN = 4  # a JPEG is not scaled below so many times what is wanted: at 2, labels changed
_SMALLEST_DRAFT = 8  # a JPEG is scaled to an eighth at the least
_MIRRORED = (2, 3, 4, 6, 7, 8)  # EXIF orientations that turn a row or a column's order round
_LEFT_AS_IT_IS = 4 << 20  # pixels; a larger picture is cheaper to fit than to hand on
_BAND = 16  # times the short side: for these, what is cut off would be most of the work
_REDUCING_GAP = 3.0  # Pillow: "almost indistinguishable from fair resampling"


@dataclass(frozen=True)
class Fitting:
    """How a model wants its pictures: open_clip's preprocessing up to the tensor, bit for bit."""

    size: Size
    resize: Literal["shortest", "longest", "squash"] = "shortest"  # the side that is made to fit
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    fill: int = 0  # grey level, 0 to 255, of what "longest" adds around the picture

    def __call__(self, image: Image.Image) -> Image.Image:
        """Resize an RGB picture, then cut or pad it around its middle to `size`."""
        return self.fitted(image)

    def fitted(self, image: Image.Image, reducing_gap: float | None = None) -> Image.Image:
        """Fit; where much is to be lost, first by the mean of whole pixels (Pillow's `reduce`)."""
        size = self.resized(image.height, image.width)
        resample = Image.Resampling[self.interpolation.upper()]
        image = image.resize(size[::-1], resample, reducing_gap=reducing_gap)
        if image.size == self.size[::-1]:
            return image
        if self.resize == "longest":
            return self._padded(image)
        top, left = self.corner(size)
        return image.crop((left, top, left + self.size[1], top + self.size[0]))

    def corner(self, resized: Size) -> Size:
        """Return top and left of what is cut out of a resized picture."""
        return round((resized[0] - self.size[0]) / 2), round((resized[1] - self.size[1]) / 2)

    def resized(self, height: int, width: int) -> Size:
        """Return height and width after resizing, rounded as open_clip rounds them."""
        if self.resize == "squash":
            return self.size
        if self.resize == "shortest" and self.size[0] == self.size[1]:
            # torchvision's rule, which cuts off what the rule below rounds.
            longer = int(self.size[0] * max(height, width) / min(height, width))
            return (self.size[0], longer) if height <= width else (longer, self.size[0])
        choose = max if self.resize == "longest" else min
        ratio = choose(height / self.size[0], width / self.size[1])
        # A band keeps a pixel of its short side, where open_clip gives up.
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _padded(self, image: Image.Image) -> Image.Image:
        canvas = Image.new("RGB", self.size[::-1], (self.fill,) * 3)
        left, top = (canvas.width - image.width) // 2, (canvas.height - image.height) // 2
        canvas.paste(image, (left, top))
        return canvas


@dataclass(frozen=True)
class Rough:
    """The fast way to a Fitting, for pictures that are fitted by other means than Pillow's."""

    fitting: Fitting

    def draft(self, image: Image.Image) -> None:
        """Have a JPEG that is not decoded yet decoded at a half, a quarter or an eighth."""
        if not isinstance(image, JpegImageFile) or _would_be_shifted(image):
            return
        by = self.reduction(image.height, image.width)
        image.draft(None, (image.width // by, image.height // by))

    def reduction(self, height: int, width: int) -> int:
        """Return what `draft` divides the sides of a JPEG by: 1, 2, 4 or 8."""
        wanted = self.fitting.resized(height, width)
        most = min(height // (_MARGIN * wanted[0]), width // (_MARGIN * wanted[1]))
        return next((by for by in (8, 4, 2) if by <= most), 1)

    def leaves(self, height: int, width: int) -> bool:
        """Tell whether a picture of this size is left as it is, for others to fit."""
        large = height * width > _LEFT_AS_IT_IS
        band = max(height, width) > _BAND * min(height, width)
        return not (large or band or self.fitting.interpolation == "nearest")

    def __call__(self, image: Image.Image) -> Image.Image:
        """Fit a large picture or a band, nearly as `Fitting` does; leave others as they are."""
        if self.leaves(image.height, image.width):
            return image
        return self.fitting.fitted(image, _REDUCING_GAP)


def _would_be_shifted(image: JpegImageFile) -> bool:
    """Tell whether a scaled JPEG's last row or column, a whole one in part only, will come first.

    Whoever resizes it cuts off at the end what is too much.
    """
    if not (image.width % _SMALLEST_DRAFT or image.height % _SMALLEST_DRAFT):
        return False
    with suppress(Exception):  # broken EXIF: as it was stored
        return image.getexif().get(ExifTags.Base.Orientation) in _MIRRORED
    return False
