"""The bytes of one file in; pixels at the model's size out, or the reason why not.

On broken and hostile files Pillow and its plugins were seen to raise OSError, ValueError,
TypeError, EOFError, SyntaxError, struct.error, AttributeError, RuntimeError and more, so any
exception of theirs is the file's reason. Only the decoding of one file is guarded so.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import PurePath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.arrays import Pixels

Fit = Callable[[Image.Image], Image.Image]  # resize and crop to the model's input size
_LONGEST = 64  # times the short side: of a longer picture only the middle is fitted


@dataclass(frozen=True)
class Picture:
    """A decoded image."""

    pixels: Pixels  # (H, W, 3), RGB, at the model's input size
    width: int  # of the original, upright
    height: int
    format: str


@dataclass(frozen=True)
class Refusal:
    """Why a file did not become a picture."""

    status: str  # unreadable, or ignored where neither name nor content promises an image
    reason: str


def image_id(data: bytes) -> str:
    """Return the first 32 hex digits of the SHA-256 of the bytes."""
    return hashlib.sha256(data).hexdigest()[:32]


def decode(data: bytes, name: str, fit: Fit, *, max_pixels: int) -> Picture | Refusal:
    """Decode one file: first frame, upright, RGB on white, fitted to the model.

    Args:
        data: the whole file.
        name: its name; the extension only tells whether an image was promised.
        fit: resizes and crops an RGB image.
        max_pixels: refuse larger pictures before decoding them.
    """
    try:
        with Image.open(BytesIO(data)) as image:
            if image.width * image.height > max_pixels:
                size = f"{image.width} x {image.height}"
                return Refusal("unreadable", f"{size} pixels are more than max_pixels {max_pixels}")
            file_format = image.format or "?"
            image.load()
            upright = _rgb(_upright(image))
            pixels = np.array(fit(_middle(upright)))  # a copy: torch wants memory it may write to
            return Picture(pixels, upright.width, upright.height, file_format)
    except UnidentifiedImageError:
        if not data:
            return Refusal("unreadable" if promises_image(name) else "ignored", "empty file")
        if promises_image(name):
            return Refusal("unreadable", "not an image, or of a format that Pillow cannot read")
        return Refusal("ignored", "not an image")
    except Exception as error:
        return Refusal("unreadable", f"{type(error).__name__}: {error}")


def promises_image(name: str) -> bool:
    """Tell whether a file's extension is one that images have."""
    return PurePath(name).suffix.lower() in _image_extensions()


def may_be_image(name: str, head: bytes) -> bool:
    """Tell by its name and first 32 bytes whether a file is worth reading whole."""
    padded = head.ljust(32, b"\0")  # some of Pillow's tests read 4 bytes without looking
    return promises_image(name) or any(
        accept(padded) for _, accept in Image.OPEN.values() if accept is not None
    )


@cache
def _image_extensions() -> frozenset[str]:
    return frozenset(Image.registered_extensions()) | {".jfif", ".heic", ".heif", ".avif"}


def _rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: transparency becomes white, 16 bits become 8."""
    if image.mode.startswith("I"):  # I;16 and its byte orders, and I
        wide = np.asarray(image).astype(np.int64)
        if wide.max(initial=0) > 255:  # Pillow would clip, and show white
            wide = wide >> 8
        return Image.fromarray(wide.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image


def _middle(image: Image.Image) -> Image.Image:
    """Cut a band to its middle: fitting scales the short side up, and the long one with it."""
    longest = _LONGEST * min(image.size)
    if max(image.size) <= longest:
        return image
    width, height = min(image.width, longest), min(image.height, longest)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image
