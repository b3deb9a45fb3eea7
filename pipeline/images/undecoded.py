"""The bytes of a JPEG in; what its header tells out, for those who decode it in another place.

Only the ordinary is let through: `decoding` judges all the rest. Nothing here touches the pixels.
"""

import struct
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

from PIL import ExifTags, Image

_BAND = 16  # times the short side: of longer pictures nearly all is cut off, and memory lost
_SEGMENT = struct.Struct(">BBH")  # 255, marker, bytes of what follows with these two
_FRAME = struct.Struct(">BHHB")  # bits of a sample, height, width, components
_SEQUENTIAL = {0xC0, 0xC1}  # baseline and extended, of Huffman's codes
_FRAMES = {*_SEQUENTIAL, 0xC2}  # and progressive
_OTHER_FRAMES = {*range(0xC3, 0xD0)} - {0xC4, 0xC8, 0xCC}  # lossless, arithmetic, hierarchical
_BARE = {0x00, 0x01, *range(0xD0, 0xDA), 0xFF}  # have no length, or no business in a header
_SCAN, _EXIF, _ADOBE = 0xDA, 0xE1, 0xEE
_YCBCR = 1  # Adobe's number for it; 0 is RGB, of three components


@dataclass(frozen=True)
class Undecoded:
    """A picture whose pixels are still to be made of its bytes."""

    data: bytes  # the whole file
    name: str
    width: int  # upright
    height: int
    format: str  # as Pillow says: JPEG or MPO
    orientation: int  # EXIF's, 1 to 8: how what is stored is turned
    one_scan: bool = False  # sequential, all components together: decoded row by row


@dataclass
class _Header:
    """What stands before the first scan."""

    size: tuple[int, int] = (0, 0)  # width, height, as stored
    components: bytes = b""  # their numbers
    transform: int = _YCBCR
    exifs: int = 0
    sequential: bool = False
    one_scan: bool = False


def left_undecoded(data: bytes, name: str, *, max_pixels: int) -> Undecoded | None:
    """Look at the header of a file.

    Args:
        data: the whole file.
        name: its name.
        max_pixels: larger pictures are left to others.

    Returns:
        The picture, where it is a whole JPEG of 8 bits, gray or YCbCr, and no band; None for all
        else, be it another format, damaged or merely rare.
    """
    # Decoders of GPUs may fill up what is missing at the end and tell nobody.
    if not data.startswith(b"\xff\xd8\xff") or not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        return None
    try:
        header = _header(data)
        if header is None or not _ordinary(header, max_pixels):
            return None
        with Image.open(BytesIO(data), formats=("JPEG",)) as image:
            if image.size != header.size or image.mode not in ("L", "RGB"):
                return None
            turned = _orientation(image)
            width, height = image.size if turned < 5 else image.size[::-1]
            told = image.format or "?"
            return Undecoded(data, name, width, height, told, turned, header.one_scan)
    except Exception:  # Pillow's plugins raise anything; `decoding` tells what is wrong
        return None


def _header(data: bytes) -> _Header | None:
    """Read the segments up to the first scan; None where they are unusual.

    Raises:
        struct.error, IndexError: the data ends within them.
    """
    found, at = _Header(), 2
    while True:
        start, marker, length = _SEGMENT.unpack_from(data, at)
        if start != 0xFF or length < 2 or marker in _BARE - {_SCAN} or marker in _OTHER_FRAMES:
            return None
        at, body = at + 2 + length, data[at + 4 : at + 2 + length]
        if marker in _FRAMES:
            bits, height, width, components = _FRAME.unpack_from(body)
            if found.components or bits != 8:
                return None
            found.size, found.components = (width, height), body[6 : 6 + 3 * components : 3]
            found.sequential = marker in _SEQUENTIAL
        elif marker == _EXIF and body.startswith(b"Exif\0\0"):
            found.exifs += 1
        elif marker == _ADOBE and body.startswith(b"Adobe"):
            found.transform = body[11]
        elif marker == _SCAN:
            found.one_scan = found.sequential and body[0] == len(found.components)
            return found


def _ordinary(header: _Header, max_pixels: int) -> bool:
    width, height = header.size
    gray, colour = len(header.components) == 1, len(header.components) == 3
    # libjpeg takes these names for a picture that is stored as RGB; others may not.
    ycbcr = colour and header.components != b"RGB" and header.transform == _YCBCR
    return (
        (gray or ycbcr)
        and 0 < width * height <= max_pixels
        and max(header.size) <= _BAND * min(header.size)
        and header.exifs <= 1  # Pillow joins several, without end: this process has no limits
    )


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation; 1, as stored, where it has none, as `decoding` sees it."""
    with suppress(Exception):
        told = image.getexif().get(ExifTags.Base.Orientation)
        return next((turn for turn in range(2, 9) if turn == told), 1)
    return 1
