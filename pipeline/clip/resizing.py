"""Resize with torch: to within one grey level what Pillow gives, in a quarter of the time.

On x86 torch resizes uint8 with the vector instructions of Pillow-SIMD, which Pillow lacks.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn import functional

from pipeline.images.decoding import Picture
from pipeline.images.fitting import Fitting, Size


def finisher(fitting: Fitting) -> Callable[[Picture], Picture]:
    """Return what fits pictures that `Rough` has left as they are, for `Decoders`."""

    def finish(picture: Picture) -> Picture:
        pixels = torch.from_numpy(picture.pixels)
        fitted = fit_pixels(pixels, (picture.height, picture.width), fitting)
        return replace(picture, pixels=fitted.numpy().copy())  # they are not ours to keep

    return finish


def fit_pixels(pixels: torch.Tensor, upright: Size, fitting: Fitting) -> torch.Tensor:
    """Fit a decoded picture as `Fitting` would.

    Args:
        pixels: (h, w, 3) of uint8, the picture at its own size, or at 1/2, 1/4 or 1/8 of it.
        upright: the picture's own height and width.
        fitting: how the model wants it; not with interpolation "nearest".

    Returns:
        (H, W, 3) of uint8, where `pixels` are.
    """
    height, width, _ = pixels.shape
    if (height, width) == fitting.size:
        return pixels
    size = fitting.resized(*upright)
    image = _resized(pixels.permute(2, 0, 1)[None], upright, size, fitting.interpolation)
    image = image[0].permute(1, 2, 0)
    if size == fitting.size:
        return image
    if fitting.resize == "longest":
        top, left = (fitting.size[0] - size[0]) // 2, (fitting.size[1] - size[1]) // 2
        canvas = torch.full_like(image[:1, :1], fitting.fill).repeat(*fitting.size, 1)
        canvas[top : top + size[0], left : left + size[1]] = image
        return canvas
    top, left = fitting.corner(size)
    return image[top : top + fitting.size[0], left : left + fitting.size[1]]


def _resized(image: torch.Tensor, upright: Size, size: Size, interpolation: str) -> torch.Tensor:
    # A scaled JPEG is rounded up to whole pixels. What it was rounded from counts: otherwise the
    # picture is stretched by as much, which cost a tenth of a per cent of cosine.
    reduction = round(max(upright) / max(image.shape[2:]))
    factors = [wanted * reduction / held for wanted, held in zip(size, upright, strict=True)]
    exact = image if image.device.type == "cpu" else image.float()  # CUDA has no kernel for uint8
    resized = functional.interpolate(
        exact,
        scale_factor=[factor * (1 + 1e-9) for factor in factors],  # torch rounds sizes down
        mode=interpolation,
        antialias=True,
        recompute_scale_factor=False,
    )
    if resized.shape[2:] != size:
        resized = functional.interpolate(exact, size=size, mode=interpolation, antialias=True)
    return resized if exact is image else resized.clamp_(0, 255).round_().to(torch.uint8)
