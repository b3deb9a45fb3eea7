"""The sheet of a query: what was asked for and the images that answer, for a look at a glance."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import polars as pl
from PIL import Image, ImageDraw, ImageFont

from pipeline.images.decoding import Decode
from pipeline.reports.contact_sheet import (
    FAINT,
    GAP,
    INK,
    MISSING,
    PAPER,
    THUMB,
    clipped,
    decoded,
    wrapped,
)

ACROSS, MOST = 8, 400  # images in a row, and in all
TOP, LINES = 44, 36  # px: the title; two lines below an image
STEP, HEIGHT = THUMB + GAP, THUMB + LINES + GAP


@dataclass(frozen=True)
class Asked:
    """One thing asked for."""

    words: str  # the text, or the name of the image
    path: str | None  # of an image; None: it is a text
    weight: float


def query_sheet(asked: Sequence[Asked], hits: pl.DataFrame, *, decode: Decode) -> bytes:
    """Draw a query and its answers as a PNG, the most similar image first, row by row.

    Below an image stand its cosine with the image or text asked for, or its standing where several
    were, and its label. What cannot be read any more is grey and says so.

    Args:
        asked: what was asked for.
        hits: as `search.searcher.Searcher.find` returns them; the first MOST are shown.
        decode: makes thumbnails of THUMB x THUMB, as by contact_sheet.THUMBNAIL; called from many
            threads.
    """
    shown = hits.head(MOST)
    wanted = [term.path for term in asked if term.path is not None] + shown["path"].to_list()
    pictures = decoded(wanted, decode)
    above, below = (-(-max(count, 1) // ACROSS) for count in (len(asked), len(shown)))
    size = (ACROSS * STEP + GAP, 2 * TOP + (above + below) * HEIGHT + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    title = ImageFont.load_default(20)
    draw.text((GAP, GAP), "Asked for", INK, title)
    for number, term in enumerate(asked):
        at = _place(number, TOP)
        if term.path is None:
            _box(draw, at, wrapped(term.words, lines=6), "#eef1f5", INK)
        else:
            _picture(sheet, at, pictures.get(term.path))
        weight = f"weight {term.weight:g}" if len(asked) > 1 or term.weight != 1 else ""
        kind = "text" if term.path is None else clipped(term.words, 18)
        _caption(draw, at, weight or kind, kind if weight else "")
    answers = TOP + above * HEIGHT
    draw.line((GAP, answers, size[0] - GAP, answers), "#c9ccd1")
    draw.text((GAP, answers + GAP), _told(hits), INK, title)
    for number, hit in enumerate(shown.iter_rows(named=True)):
        at = _place(number, answers + TOP)
        _picture(sheet, at, pictures.get(hit["path"]))
        _caption(draw, at, _measure(hit), clipped(hit["label"] or "no label", 18))
    file = BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _place(number: int, top: int) -> tuple[int, int]:
    """Return the left upper corner of an image."""
    return GAP + number % ACROSS * STEP, top + number // ACROSS * HEIGHT


def _told(hits: pl.DataFrame) -> str:
    if not len(hits):
        return "No image answers"
    if len(hits) > MOST:
        return f"The first {MOST} of {len(hits):,} images that answer"
    return f"{len(hits)} images answer" if len(hits) > 1 else "1 image answers"


def _measure(hit: dict[str, object]) -> str:
    for name in ("standing", "image_cosine", "text_cosine"):
        if hit[name] is not None:
            return f"{name.rpartition('_')[2]} {hit[name]:.3f}"
    return ""


def _picture(sheet: Image.Image, at: tuple[int, int], thumbnail: Image.Image | None) -> None:
    if thumbnail is None:
        _box(ImageDraw.Draw(sheet), at, "not there,\nor no picture\nany more", MISSING, INK)
    else:
        sheet.paste(thumbnail, at)


def _box(draw: ImageDraw.ImageDraw, at: tuple[int, int], words: str, paper: str, ink: str) -> None:
    left, top = at
    draw.rectangle((left, top, left + THUMB - 1, top + THUMB - 1), paper)
    draw.multiline_text((left + 6, top + 6), words, ink, ImageFont.load_default(13))


def _caption(draw: ImageDraw.ImageDraw, at: tuple[int, int], first: str, second: str) -> None:
    left, top = at
    small = ImageFont.load_default(12)
    draw.text((left, top + THUMB + 3), first, INK, small)
    draw.text((left, top + THUMB + 18), second, FAINT, small)
