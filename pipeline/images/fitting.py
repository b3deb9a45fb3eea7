"""Fit: a picture of any size in; one of the model's input size out, as open_clip's transform does.

It needs Pillow alone and can be pickled, so that processes which decode never load torch.
"""

from dataclasses import dataclass
from typing import Literal

from PIL import Image

Size = tuple[int, int]  # height, width, in pixels: the order of open_clip


@dataclass(frozen=True)
class Fitting:
    """How a model wants its pictures: open_clip's preprocessing up to the tensor, bit for bit."""

    size: Size
    resize: Literal["shortest", "longest", "squash"] = "shortest"  # the side that is made to fit
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    fill: int = 0  # grey level, 0 to 255, of what "longest" adds around the picture

    def __call__(self, image: Image.Image) -> Image.Image:
        """Resize an RGB picture, then cut or pad it around its middle to `size`."""
        height, width = self._resized(image.height, image.width)
        image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        if image.size == self.size[::-1]:
            return image
        if self.resize == "longest":
            return self._padded(image)
        top, left = round((height - self.size[0]) / 2), round((width - self.size[1]) / 2)
        return image.crop((left, top, left + self.size[1], top + self.size[0]))

    def _resized(self, height: int, width: int) -> Size:
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
