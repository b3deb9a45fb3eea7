"""The sheet of an audit: images drawn in; a CSV file, and a page to fill it in with, out.

The page holds its pictures and its script and asks nothing of a network, and its own rules keep it
from doing so. Whatever stands in a path or a label is shown as text.
"""

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from jinja2 import Environment
from PIL import Image

from pipeline.identity import digest
from pipeline.images.decoding import Decode
from pipeline.images.fitting import Fitting
from pipeline.labels.answers import COLUMNS
from pipeline.reports.contact_sheet import decoded

PICTURE = Fitting((256, 256), resize="longest", fill=250)  # all of it, for a person to judge
_PAGE = Path(__file__).with_name("audit_sheet.html")


@dataclass(frozen=True)
class _Row:
    image_id: str
    path: str
    label: str
    score: str
    picture: str | None  # a data URI; None: it cannot be shown


def sheet_csv(images: pl.DataFrame) -> str:
    """Return the rows to be answered as CSV, the column answer empty.

    Args:
        images: image_id, path, label_shown and score.
    """
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for image_id, path, label, score in _cells(images):
        writer.writerow([image_id, path, label, score, ""])
    return file.getvalue()


def sheet_page(
    images: pl.DataFrame, classes: Sequence[str], *, name: str, number: int, decode: Decode
) -> str:
    """Return one self-contained page with a card for each image.

    Args:
        images: image_id, path, label_shown and score.
        classes: the labels to choose from.
        name: of the label set.
        number: of the round.
        decode: makes pictures as by PICTURE; called from many threads.
    """
    pictures = decoded(images["path"].to_list(), decode)
    rows = [
        _Row(image_id, path, label, score, _data_uri(pictures.get(path)))
        for image_id, path, label, score in _cells(images)
    ]
    # What was typed is kept by the browser under the key, so it is the sample's own.
    key = digest([name, number, images["image_id"].to_list()])
    page = Environment(autoescape=True).from_string(_PAGE.read_text(encoding="utf-8"))
    return page.render(rows=rows, classes=classes, name=name, round=number, key=key)


def _cells(images: pl.DataFrame) -> list[tuple[str, str, str, str]]:
    rows = images.select("image_id", "path", "label_shown", "score").iter_rows()
    return [(image_id, path, label, f"{score:.4f}") for image_id, path, label, score in rows]


def _data_uri(picture: Image.Image | None) -> str | None:
    if picture is None:
        return None
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
