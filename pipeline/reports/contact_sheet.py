"""A contact sheet: one row per class, its surest and least sure images, for a look at a glance."""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

import polars as pl
from PIL import Image, ImageDraw, ImageFont

from pipeline.catalog import present_images
from pipeline.images.decoding import Decode, Picture, Refusal
from pipeline.images.fitting import Fitting
from pipeline.images.paths import name_of
from pipeline.images.reading import read_bytes
from pipeline.labels.labelling import current_labels
from pipeline.store import Store

logger = logging.getLogger(__name__)

THUMB, GAP, CAPTION, NAMES, HEADER = 112, 8, 20, 150, 76  # px
THUMBNAIL = Fitting((THUMB, THUMB))  # the middle of the picture, as a square
MISSING = "#c9ccd1"
PAPER, INK, FAINT = "#ffffff", "#1c1e21", "#7b8087"
GOOD, FAIR, POOR = "#2e8b57", "#d59a1c", "#c5443c"


_READERS = 8


@dataclass(frozen=True)
class Row:
    """The images of one class on the sheet."""

    label: str
    images: int  # given this label in all
    best: list[tuple[str, float]]  # path and confidence, surest first
    worst: list[tuple[str, float]]  # the least sure, the very least last


def contact_sheet(
    store: Store, *, decode: Decode, per_side: int = 5, max_classes: int = 60
) -> bytes | None:
    """Draw the current labels of a store as a PNG; None when nothing is labelled.

    Args:
        store: it must hold labels.
        decode: makes thumbnails of THUMB x THUMB, as by THUMBNAIL; called from many threads.
        per_side: images shown at each end of a row.
        max_classes: the classes with the most images are shown.
    """
    run = current_labels(store)
    labels = store.read(run.table, ["image_id", "label", "confidence", "calibrated"])
    labelled = present_images(store).join(
        labels.unique("image_id").filter(pl.col("label").is_not_null()), on="image_id"
    )
    if not len(labelled):
        return None
    rows = pick_rows(labelled, run.label_set.names, per_side=per_side, max_classes=max_classes)
    what = "confidence" if labelled["calibrated"].all() else "score (not calibrated)"
    title = f"{len(labelled)} labelled images, label set “{run.label_set.name}”, {what}"
    file = BytesIO()
    sheet = draw_sheet(rows, title, per_side, thumbnails(rows, decode))
    sheet.save(file, "PNG", compress_level=4)  # of photos, 2 % larger than by the usual 6
    return file.getvalue()


def pick_rows(
    labelled: pl.DataFrame, classes: list[str], *, per_side: int, max_classes: int
) -> list[Row]:
    """Choose the images of each row from the columns path, label and confidence.

    No image stands in a row twice: a small class fills its best side first.
    """
    counts = dict(labelled["label"].value_counts().iter_rows())
    shown = sorted(counts, key=lambda name: (-counts[name], name))[:max_classes]
    rows = []
    for name in (name for name in classes if name in shown):
        own = labelled.filter(pl.col("label") == name)
        own = own.sort(["confidence", "path"], descending=[True, False])
        pairs = list(own.select("path", "confidence").iter_rows())
        worst = pairs[per_side:][-per_side:]
        rows.append(Row(name, len(pairs), pairs[:per_side], worst))
    return rows


def thumbnails(rows: list[Row], decode: Decode) -> dict[str, Image.Image]:
    """Return the images of the rows as squares by path; those that cannot be read are not there."""
    return decoded([path for row in rows for path, _ in [*row.best, *row.worst]], decode)


def decoded(paths: Iterable[str], decode: Decode) -> dict[str, Image.Image]:
    """Return images by path, as `decode` makes them; those that cannot be read are not there."""

    def thumbnail(path: str) -> Picture | Refusal:
        try:
            return decode(read_bytes(path), name_of(path))
        except OSError as error:
            return Refusal("unreadable", str(error))

    paths = sorted(set(paths))
    with ThreadPoolExecutor(_READERS, thread_name_prefix="thumbnail") as pool:
        made = dict(zip(paths, pool.map(thumbnail, paths), strict=True))
    refused = [f"{path}: {o.reason}" for path, o in made.items() if isinstance(o, Refusal)]
    if refused:
        logger.warning(
            "%d images cannot be shown; the first: %s",
            len(refused),
            refused[0],
        )
    pictures = {path: o for path, o in made.items() if isinstance(o, Picture)}
    return {path: Image.fromarray(picture.pixels) for path, picture in pictures.items()}


def draw_sheet(
    rows: list[Row], title: str, per_side: int, images: dict[str, Image.Image]
) -> Image.Image:
    """Lay out the rows: class name and count, best images, a gap, worst images.

    Args:
        rows: the classes.
        title: stands above them.
        per_side: images at each end of a row.
        images: thumbnails by path; where there is none the place stays grey.
    """
    step, height = THUMB + GAP, THUMB + CAPTION + GAP
    middle = NAMES + per_side * step + 3 * GAP
    size = (middle + per_side * step + GAP, HEADER + len(rows) * height + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, INK, ImageFont.load_default(20))
    small = ImageFont.load_default(14)
    draw.text((NAMES, HEADER - 26), "surest", FAINT, small)
    draw.text((middle, HEADER - 26), "least sure", FAINT, small)
    for number, row in enumerate(rows):
        top = HEADER + number * height
        draw.line((GAP, top - GAP // 2, size[0] - GAP, top - GAP // 2), "#e4e6e9")
        draw.multiline_text((GAP, top + 34), wrapped(row.label), INK, ImageFont.load_default(16))
        draw.text((GAP, top + THUMB - 12), f"{row.images} images", FAINT, small)
        for left, shown in ((NAMES, row.best), (middle, row.worst)):
            for column, (path, confidence) in enumerate(shown):
                place = (left + column * step, top)
                _draw_image(sheet, place, images.get(path), row.label, confidence)
    return sheet


def _draw_image(
    sheet: Image.Image,
    at: tuple[int, int],
    thumbnail: Image.Image | None,
    label: str,
    confidence: float,
) -> None:
    left, top = at
    draw = ImageDraw.Draw(sheet)
    sheet.paste(thumbnail or MISSING, (left, top, left + THUMB, top + THUMB))
    bar = top + THUMB
    draw.rectangle((left, bar, left + THUMB - 1, bar + 3), "#e4e6e9")
    colour = GOOD if confidence >= 0.9 else FAIR if confidence >= 0.5 else POOR
    draw.rectangle((left, bar, left + round((THUMB - 1) * confidence), bar + 3), colour)
    caption = f"{clipped(label, 13)} {confidence:.2f}"
    draw.text((left, bar + 5), caption, INK, ImageFont.load_default(12))


def wrapped(text: str, width: int = 16, lines: int = 3) -> str:
    """Return the words of a text in some lines; what is too long ends in an ellipsis."""
    made = [""]
    for word in text.split():
        if made[-1] and len(made[-1]) + len(word) >= width:
            made.append("")
        made[-1] = f"{made[-1]} {word}".strip()
    if len(made) > lines:
        made[lines - 1] += " …"
    return "\n".join(clipped(line, width) for line in made[:lines])


def clipped(text: str, width: int) -> str:
    """Return a text of that many characters at most."""
    return text if len(text) <= width else text[: width - 1] + "…"
