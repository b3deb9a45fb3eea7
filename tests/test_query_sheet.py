"""The picture of a query, and answers as files."""

from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.images.decoding import Picture, Refusal, decode
from pipeline.reports import hits as module
from pipeline.reports.contact_sheet import GAP, THUMB, THUMBNAIL
from pipeline.reports.hits import hits_file
from pipeline.reports.query_sheet import HEIGHT, STEP, TOP, Asked, query_sheet

GREY = (0xC9, 0xCC, 0xD1)


def answers(*paths: str) -> pl.DataFrame:
    columns: dict[str, object] = {
        "image_id": [f"id{number}" for number in range(len(paths))],
        "path": list(paths),
        "label": ["dog", None, "cat"][: len(paths)] + ["cow"] * (len(paths) - 3),
        "image_cosine": [0.5] * len(paths),
        "text_cosine": [None] * len(paths),
        "standing": [None] * len(paths),
    }
    kinds = dict.fromkeys(("image_cosine", "text_cosine", "standing"), pl.Float32)
    return pl.DataFrame(columns, schema_overrides=kinds)


def in_process(data: bytes, name: str) -> Picture | Refusal:
    return decode(data, name, THUMBNAIL, max_pixels=10**6)


def middle(row: int, column: int, above: int = 0) -> tuple[int, int]:
    """Return the middle of a place: of the terms, or of the answers with `above` rows of terms."""
    top = TOP if not above else 2 * TOP + above * HEIGHT
    return GAP + column * STEP + THUMB // 2, top + row * HEIGHT + THUMB // 2 + 20


def test_each_image_stands_in_its_place_and_what_is_gone_is_grey(tmp_path: Path) -> None:
    colours = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}
    for name, colour in colours.items():
        Image.new("RGB", (40, 60), colour).save(tmp_path / f"{name}.png")
    red, green, blue = (str(tmp_path / f"{name}.png") for name in colours)
    asked = [Asked("red.png", red, 1.0), Asked("not so " * 30, None, -2.0)]
    hits = answers(green, str(tmp_path / "gone.png"), *[red] * 7, blue)
    sheet = Image.open(BytesIO(query_sheet(asked, hits, decode=in_process)))
    assert sheet.getpixel(middle(0, 0)) == colours["red"]
    assert sheet.getpixel(middle(0, 0, above=1)) == colours["green"]
    assert sheet.getpixel(middle(0, 1, above=1)) == GREY
    assert sheet.getpixel(middle(1, 1, above=1)) == colours["blue"]  # eight stand in a row
    assert sheet.size == (8 * STEP + GAP, 2 * TOP + 3 * HEIGHT + GAP)


def test_a_query_that_nobody_answers_is_drawn_all_the_same() -> None:
    sheet = query_sheet([Asked("a dog", None, 1.0)], answers().head(0), decode=in_process)
    assert Image.open(BytesIO(sheet)).size[1] == 2 * TOP + 2 * HEIGHT + GAP


@pytest.mark.parametrize("name", ["out/hits.parquet", "out/hits.csv"])
def test_answers_come_back_from_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(module, "_ROWS", 3)
    rows = answers("a, b", "c", "d", "e").drop("text_cosine", "standing")
    with hits_file(tmp_path / name) as file:
        for at in range(4):
            file.write(rows[at : at + 1])
        assert not (tmp_path / name).exists()
    read = pl.read_parquet if name.endswith("parquet") else pl.read_csv
    assert read(tmp_path / name).rows() == rows.rows()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [Path(name).name]


def test_a_file_that_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "hits.csv"
    file.write_text("old")

    def fail() -> None:
        with hits_file(file) as writer:
            writer.write(answers("a"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(InputError, match=r"ends in \.parquet or \.csv"), hits_file(Path("x.json")):
        pass
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="is a folder"), hits_file(tmp_path / "folder.csv"):
        pass
