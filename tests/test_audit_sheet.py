"""The sheet of an audit: a page of its own, in which nothing of a path or a label is markup."""

import base64
import csv
import io
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
from PIL import Image

from pipeline.images.decoding import Picture, Refusal, decode
from pipeline.reports.audit_sheet import PICTURE, sheet_csv, sheet_page

EVIL = "<img src=x onerror=alert(1)>"
EVIL_PATH = f'/in/"><script>alert(2)</script>, {EVIL}\n.png'


class Page(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def images(path: str = "/in/a.png", label: str = "dog") -> pl.DataFrame:
    return pl.DataFrame(
        {
            "image_id": ["a" * 32, "b" * 32],
            "path": [path, "/in/gone.png"],
            "label_shown": [label, "cat"],
            "score": [0.98765, 0.5],
        }
    )


def page_of(rows: pl.DataFrame, *classes: str) -> Page:
    def in_process(data: bytes, name: str) -> Picture | Refusal:
        return decode(data, name, PICTURE, max_pixels=10**6)

    return Page(sheet_page(rows, classes, name=f"pets {EVIL}", number=1, decode=in_process))


def test_the_csv_has_the_columns_and_room_for_an_answer() -> None:
    rows = list(csv.reader(io.StringIO(sheet_csv(images(EVIL_PATH)))))
    assert rows[0] == ["image_id", "path", "label", "score", "answer"]
    assert rows[1] == ["a" * 32, EVIL_PATH, "dog", "0.9877", ""]


def test_what_is_shown_is_the_whole_picture_and_lies_in_the_page(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    picture = Image.new("RGB", (80, 20), (10, 200, 10))
    picture.save(file)
    page = page_of(images(str(file)), "dog", "cat")
    [image] = [attributes for tag, attributes in page.tags if tag == "img"]
    source = image["src"]
    assert source is not None and source.startswith("data:image/jpeg;base64,")
    shown = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    assert shown.size == (256, 256)
    for x in (3, 128, 252):  # nothing is cut off at the sides
        red, green, _ = shown.getpixel((x, 128))  # type: ignore[misc]
        assert green > 150 > red
    assert "cannot be shown" in page.texts  # the other one


def test_paths_and_labels_are_text_and_no_markup() -> None:
    page = page_of(images(EVIL_PATH, EVIL), EVIL, "cat")
    assert not [tag for tag, _ in page.tags if tag == "img"]  # neither file can be read
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 1
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    [card, _] = [attributes for tag, attributes in page.tags if tag == "fieldset"]
    assert (card["data-path"], card["data-label"]) == (EVIL_PATH, EVIL)
    options = [attributes["value"] for tag, attributes in page.tags if tag == "option"]
    assert options == [EVIL, "cat"]


def test_the_page_asks_nothing_of_a_network() -> None:
    page = page_of(images(), "dog", "cat")
    rules = [a["content"] for tag, a in page.tags if a.get("http-equiv")]
    assert rules and "default-src 'none'" in str(rules[0])
    for _, attributes in page.tags:
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
