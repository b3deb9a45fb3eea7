"""The contact sheet: who stands where, and what happens to an image that is gone."""

from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from flows.resources import thumbnail_decoders
from pipeline.images.decoding import Picture, Refusal, decode
from pipeline.reports.contact_sheet import (
    HEADER,
    NAMES,
    THUMB,
    THUMBNAIL,
    Row,
    draw_sheet,
    pick_rows,
    thumbnails,
)
from tests.conftest import DATA, demo_config


def labelled(*rows: tuple[str, str, float]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["path", "label", "confidence"], orient="row")


def test_rows_begin_with_the_surest_and_end_with_the_least_sure() -> None:
    images = labelled(*((f"{n}", "dog", n / 10) for n in range(10)), ("x", "cat", 0.5))
    cat, dog = pick_rows(images, ["cat", "dog", "cow"], per_side=2, max_classes=9)
    assert (cat.label, cat.images, cat.worst) == ("cat", 1, [])
    assert dog.best == [("9", 0.9), ("8", 0.8)]
    assert dog.worst == [("1", 0.1), ("0", 0.0)]


def test_no_image_stands_twice_and_the_largest_classes_are_shown() -> None:
    images = labelled(("a", "dog", 0.9), ("b", "dog", 0.8), ("c", "dog", 0.7), ("d", "cat", 0.9))
    [dog] = pick_rows(images, ["cat", "dog"], per_side=2, max_classes=1)
    assert (dog.label, len(dog.best), dog.worst) == ("dog", 2, [("c", 0.7)])


def test_the_picture_shows_each_image_in_its_place(tmp_path: Path) -> None:
    Image.new("RGB", (50, 80), (10, 200, 10)).save(tmp_path / "green.png")
    rows = [Row("dog", 2, [(str(tmp_path / "green.png"), 0.9)], [("gone.png", 0.2)])]

    def in_process(data: bytes, name: str) -> Picture | Refusal:
        return decode(data, name, THUMBNAIL, max_pixels=10**6)

    images = thumbnails(rows, in_process)
    assert list(images) == [str(tmp_path / "green.png")]
    sheet = draw_sheet(rows, "title", 1, images)
    middle = (NAMES + THUMB // 2, HEADER + THUMB // 2)
    assert sheet.getpixel(middle) == (10, 200, 10)
    grey = sheet.getpixel((sheet.width - THUMB // 2 - 8, middle[1]))
    assert grey == (0xC9, 0xCC, 0xD1)  # an image that cannot be read any more


@pytest.mark.parametrize("shape", [(256, 256), (1800, 2400), (90, 70), (30, 1400)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_fast_thumbnails_look_like_exact_ones(
    tmp_path: Path, shape: tuple[int, int], kind: str
) -> None:
    file = BytesIO()
    with Image.open(DATA / "images/food/kiwi/kiwi-01.jpg") as photo:
        photo.resize(shape[::-1]).save(file, kind)
    data = file.getvalue()
    exact = decode(data, "photo", THUMBNAIL, max_pixels=10**7)
    with thumbnail_decoders(demo_config(tmp_path / "store")) as pool:
        fast = pool.decode(data, "photo")
        ordinary = kind == "JPEG" and max(shape) < 10 * min(shape)
        assert bool(pool._workers) is not ordinary  # no process is started for those
    assert isinstance(exact, Picture)
    assert isinstance(fast, Picture)
    assert (fast.width, fast.height) == shape[::-1]
    assert fast.pixels.shape == exact.pixels.shape == (THUMB, THUMB, 3)
    assert np.abs(fast.pixels.astype(int) - exact.pixels).mean() < 1.5
