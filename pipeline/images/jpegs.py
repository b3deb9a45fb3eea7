"""Ordinary JPEGs, decoded in this process, bit for bit as Pillow decodes them.

To hand a file to a process of its own, and its pixels back, takes half as long again as decoding
it. So what can do no harm is decoded here: by libjpeg-turbo, row by row, in time and memory that
follow from its size. Anything else, and whatever libjpeg-turbo so much as warns of, is left to
`workers`.
"""

import simplejpeg

from pipeline.images.decoding import Picture
from pipeline.images.fitting import Rough
from pipeline.images.undecoded import left_undecoded

_UPRIGHT = 1  # EXIF's orientation
_MOST_PIXELS = 64 << 20  # of a file: some 0.3 s


def decode_here(data: bytes, name: str, rough: Rough, *, max_pixels: int) -> Picture | None:
    """Decode a file as `decoding.decode` does with this `rough`; may be called by many threads.

    Args:
        data: the whole file.
        name: its name.
        rough: how far it is fitted.
        max_pixels: larger pictures are left to others.

    Returns:
        The picture, where it is a whole, upright JPEG of one sequential scan, 8 bits, gray or
        YCbCr, that is left to others to fit; None for all else.
    """
    jpeg = left_undecoded(data, name, max_pixels=min(max_pixels, _MOST_PIXELS))
    if jpeg is None or not jpeg.one_scan or jpeg.orientation != _UPRIGHT:
        return None
    by = rough.reduction(jpeg.height, jpeg.width)
    height, width = -(-jpeg.height // by), -(-jpeg.width // by)
    if not rough.leaves(height, width):
        return None
    least = {"min_height": height, "min_width": width} if by > 1 else {}
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", **least)
    except ValueError:  # a worker tells what is wrong, if Pillow minds
        return None
    if pixels.shape != (height, width, 3):
        return None
    return Picture(pixels, jpeg.width, jpeg.height, jpeg.format)
