"""A sheet of near-duplicates: one row per group, its best image first and marked."""

from io import BytesIO

import polars as pl
from PIL import Image, ImageDraw, ImageFont

from pipeline.images.decoding import Decode
from pipeline.reports.contact_sheet import (
    CAPTION,
    FAINT,
    GAP,
    GOOD,
    HEADER,
    INK,
    MISSING,
    NAMES,
    PAPER,
    THUMB,
    decoded,
)

_PER_ROW = 8  # images of a group that are shown
_FRAME = 4  # px, around the best


def duplicate_sheet(members: pl.DataFrame, title: str, *, decode: Decode, limit: int) -> bytes:
    """Draw the largest groups as a PNG.

    Args:
        members: of `search.groups.Groups`.
        title: stands above them.
        decode: makes thumbnails of THUMB x THUMB, as by `contact_sheet.THUMBNAIL`; called from
            many threads.
        limit: groups shown.
    """
    shown = members.filter(pl.col("group") < limit)
    first = shown.filter(pl.int_range(pl.len()).over("group") < _PER_ROW)
    images = decoded(first["path"], decode)
    file = BytesIO()
    draw_groups(shown, title, images).save(file, "PNG")
    return file.getvalue()


def draw_groups(members: pl.DataFrame, title: str, images: dict[str, Image.Image]) -> Image.Image:
    """Lay out the groups: size, best image in a frame, the others with their cosine with it."""
    groups = members.partition_by("group", maintain_order=True)
    step, height = THUMB + GAP, THUMB + CAPTION + GAP
    widest = max((min(len(group), _PER_ROW) for group in groups), default=0)
    size = (max(NAMES + widest * step + GAP, 640), HEADER + len(groups) * height + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, INK, ImageFont.load_default(20))
    small = ImageFont.load_default(14)
    legend = "in green the best of each group; below the others their cosine with it"
    draw.text((GAP, HEADER - 36), legend, FAINT, small)
    for number, group in enumerate(groups):
        top = HEADER + number * height
        draw.line((GAP, top - GAP // 2, size[0] - GAP, top - GAP // 2), "#e4e6e9")
        draw.text((GAP, top + 34), f"{len(group)} images", INK, ImageFont.load_default(16))
        if len(group) > _PER_ROW:
            draw.text((GAP, top + 58), f"{_PER_ROW} are shown", FAINT, small)
        for column, row in enumerate(group.head(_PER_ROW).iter_rows(named=True)):
            left = NAMES + column * step
            thumbnail = images.get(row["path"])
            sheet.paste(thumbnail or MISSING, (left, top, left + THUMB, top + THUMB))
            caption = f"{row['width']} x {row['height']}"
            if row["best"]:
                box = (left, top, left + THUMB - 1, top + THUMB - 1)
                draw.rectangle(box, outline=GOOD, width=_FRAME)
            else:
                caption += f"  {row['cosine']:.3f}"
            draw.text((left, top + THUMB + 4), caption, INK, ImageFont.load_default(12))
    return sheet
