"""The bytes of one file in; pixels at the model's size out, or the reason why not.

On broken and hostile files Pillow and its plugins were seen to raise OSError, ValueError,
TypeError, EOFError, SyntaxError, struct.error, AttributeError, RuntimeError and more, so any
exception of theirs is the file's reason. Only the decoding of one file is guarded so; `workers`
guards against decoders that take the process with them.

Pillow keeps RGB in 4 bytes a pixel. At most two such copies of a picture live at a time.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import PurePath

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pipeline.arrays import Pixels
from pipeline.images.fitting import Rough
from pipeline.images.formats import EXTENSIONS, load_plugins, what_it_needs

Decode = Callable[[bytes, str], "Picture | Refusal"]  # a whole file and its name
Fit = Callable[
    [Image.Image], Image.Image
]  # resizes and crops an RGB image, or leaves that to others
_LONGEST = 64  # times the short side: of a longer picture only the middle is fitted
_STRIP = 1 << 20  # pixels that are converted at a time
_UNKNOWN = "not an image, or of a format that Pillow cannot read"


@dataclass(frozen=True)
class Picture:
    """A decoded image."""

    pixels: Pixels  # (H, W, 3), RGB, upright, as `Fit` left them
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
    load_plugins()
    try:
        image: Image.Image = Image.open(BytesIO(data))
        file_format = image.format or "?"
        if file_format == "EPS":  # it may do more than draw, on whatever machine has Ghostscript
            return Refusal("unreadable", "an EPS file is a program, which is not run; convert it")
        _require_size(image, max_pixels)
        size = image.size
        if isinstance(fit, Rough):
            fit.draft(image)
        drafted = image.size
        image.load()
        if drafted == size:
            size = image.size  # a HEIC's true size may show only now
            _require_size(image, max_pixels)
        # One name for all of them: what is left behind is freed before the next is made.
        with suppress(Exception):  # broken EXIF: as it was stored
            on_its_side = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            ImageOps.exif_transpose(image, in_place=True)
            size = size[::-1] if on_its_side else size
        image = _rgb(image)
        pixels = np.asarray(fit(_middle(image)))
        return Picture(pixels, size[0], size[1], file_format)
    except UnidentifiedImageError:
        return _unidentified(data, name)
    except _TooLargeError as error:
        return Refusal("unreadable", f"{error} pixels are more than max_pixels {max_pixels}")
    except Image.DecompressionBombError as error:  # Pillow's own cap: it names a count of pixels
        counted = re.search(r"\d+", str(error))
        found = counted.group() if counted else "its"
        return Refusal("unreadable", f"{found} pixels are more than max_pixels {max_pixels}")
    except MemoryError:
        return Refusal("unreadable", "decoding takes more memory than one picture may have")
    except Exception as error:
        return Refusal("unreadable", _one_line(f"{type(error).__name__}: {error}"))


def promises_image(name: str) -> bool:
    """Tell whether a file's extension is one that images have."""
    return PurePath(name).suffix.lower() in _image_extensions()


def may_be_image(name: str, head: bytes) -> bool:
    """Tell by its name and first 32 bytes whether a file is worth reading whole."""
    padded = head.ljust(32, b"\0")  # some of Pillow's tests read 4 bytes without looking
    return (
        promises_image(name)
        or what_it_needs(head) is not None
        or any(accept(padded) for _, accept in Image.OPEN.values() if accept is not None)
    )


class _TooLargeError(Exception):
    """Its message is the size."""


def _require_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise _TooLargeError(f"{image.width} x {image.height}")


@cache
def _image_extensions() -> frozenset[str]:
    return frozenset(Image.registered_extensions()) | EXTENSIONS


def _unidentified(data: bytes, name: str) -> Refusal:
    """Say why Pillow made nothing of a file."""
    needs = what_it_needs(data)
    if needs:
        return Refusal("unreadable", needs)
    promised = promises_image(name)
    if not data:
        return Refusal("unreadable" if promised else "ignored", "empty file")
    return Refusal("unreadable", _UNKNOWN) if promised else Refusal("ignored", "not an image")


def _one_line(text: str) -> str:
    """Keep a reason short, on one line and free of bytes that no table can hold."""
    return " ".join(text.encode(errors="replace").decode().split())[:300]


def _rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: transparency becomes white, 16 bits and fractions become 8 bits."""
    if image.mode == "F" or image.mode.startswith("I"):  # I;16 and its byte orders, and I
        # Pillow would clip, and show white (or, of fractions, black).
        highest = max(np.nanmax(np.asarray(strip), initial=0) for _, strip in _strips(image))
        factor = 255.0 if image.mode == "F" and highest <= 1 else 1.0 if highest <= 255 else 1 / 256
        return _by_strips(image, lambda strip: _narrow(strip, factor))
    if image.has_transparency_data:
        return _by_strips(image, _on_white)
    return image.convert("RGB") if image.mode != "RGB" else image


def _narrow(strip: Image.Image, factor: float) -> Image.Image:
    scaled = np.nan_to_num(np.asarray(strip).astype(np.float64)) * factor
    return Image.fromarray(np.floor(scaled).clip(0, 255).astype(np.uint8))


def _on_white(strip: Image.Image) -> Image.Image:
    layer = strip.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


def _by_strips(image: Image.Image, convert: Fit) -> Image.Image:
    """Convert to RGB bit by bit, so that no second copy of a large picture is made on the way."""
    rgb = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        rgb.paste(convert(strip).convert("RGB"), (0, top))
    return rgb


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(image.height, top + rows)))


def _middle(image: Image.Image) -> Image.Image:
    """Cut a band to its middle: fitting scales the short side up, and the long one with it."""
    longest = _LONGEST * min(image.size)
    if max(image.size) <= longest:
        return image
    width, height = min(image.width, longest), min(image.height, longest)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
