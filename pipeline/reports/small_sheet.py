"""A contact sheet of few bytes, for places that keep pictures in a database or send them."""

from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from pipeline.reports.contact_sheet import CAPTION, GAP, HEADER, THUMB

SCALE = 0.6  # captions can still be read
_ROW = THUMB + CAPTION + GAP
_MOST_ROWS = 40
_QUALITY = 60
_TRIES = 6


@dataclass(frozen=True)
class SmallSheet:
    """A WebP picture of the first rows of a sheet."""

    content: bytes
    rows: int  # classes shown
    of: int  # classes on the whole sheet


def small_sheet(png: bytes, *, at_most: int) -> SmallSheet | None:
    """Make a contact sheet smaller, and leave out its last rows, until it is of few bytes.

    Args:
        png: as `contact_sheet` draws it.
        at_most: bytes that the picture may have.

    Returns:
        The picture; None where not even one row fits.
    """
    with Image.open(BytesIO(png)) as opened:
        sheet = opened.convert("RGB")
    all_rows = (sheet.height - HEADER - GAP) // _ROW
    rows = min(all_rows, _MOST_ROWS)
    for _ in range(_TRIES):
        shown = sheet.crop((0, 0, sheet.width, HEADER + rows * _ROW + GAP))
        file = BytesIO()
        size = (round(shown.width * SCALE), round(shown.height * SCALE))
        shown.resize(size, Image.Resampling.LANCZOS).save(file, "WEBP", quality=_QUALITY)
        if file.tell() <= at_most:
            return SmallSheet(file.getvalue(), rows, all_rows)
        # The header's bytes are shared out over the rows: a guess, mended by the next try.
        rows = min(rows - 1, int(rows * at_most / file.tell()))
        if rows < 1:
            break
    return None
