"""What Prefect shows of a run: hostile names, tables, words, a small contact sheet."""

import logging
import shutil
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt  # rich brings it
from PIL import Image

from flows.artifacts import drop_table, drop_words, escaped
from flows.run_names import shown, store_key
from pipeline.config import make_config
from pipeline.errors import InputError
from pipeline.reports.contact_sheet import THUMB, Row, draw_sheet
from pipeline.reports.small_sheet import SCALE, small_sheet
from tests.conftest import DATA, demo_config, run_plain

GFM = MarkdownIt("commonmark").enable(["table", "strikethrough"])
HOSTILE = "<img src=x onerror=alert(1)>|`a`**b**[c](http://d)\n# e.jpg"


def text_of(markdown: str) -> tuple[set[str], str]:
    """Read Markdown as another program does: the kinds of what it holds, and its text."""
    kinds, text = set(), ""
    for block in GFM.parse(markdown):
        kinds.add(block.type)
        for part in block.children or []:
            kinds.add(part.type)
            text += part.content
    return kinds, text


NAMES = st.text(max_size=60) | st.text("-+#=.)12 \t\\`*_[](){}<>&|~@!:/w.a'\"\n", max_size=20)
PLAIN = {"paragraph_open", "inline", "text", "text_special", "paragraph_close"}


@given(NAMES)
def test_whatever_a_name_holds_is_shown_as_it_is(name: str) -> None:
    for around in ("x {} x", "{}", "{} x"):
        kinds, text = text_of(around.format(escaped(name)))
        assert kinds <= PLAIN
        assert text.split() == around.format(shown(name)).split()
    kinds, text = text_of(f"- {escaped(name)}")
    assert not {"heading_open", "code_block", "hr", "ordered_list_open"} & kinds
    assert text.split() == shown(name).split()


@pytest.mark.parametrize("link", ["http://evil", "www.evil.com", "HTTPS://a", "a@evil.com"])
def test_what_looks_like_an_address_is_no_link(link: str) -> None:
    """By the rules of autolinks, which ask for these very characters one after another."""
    assert not any(mark in escaped(link).lower() for mark in ("p://", "s://", "www.", "a@"))


def test_what_needs_no_escape_has_none() -> None:
    said = "linear saved (it is the only one), of 154 samples: 90.0 % on 5-fold data!"
    assert escaped(said) == said


@given(NAMES)
def test_a_name_stays_within_its_cell(name: str) -> None:
    html = GFM.render(f"| a | b |\n|---|---|\n| {escaped(name)} | 7 |\n")
    assert html.count("<td>") == 2
    assert "<td>7</td>" in html


def test_the_hostile_name_would_do_harm_as_it_is() -> None:
    kinds, _ = text_of(HOSTILE)
    assert {"html_inline", "code_inline", "strong_open", "link_open", "heading_open"} <= kinds


def test_what_is_no_text_and_what_is_long_can_be_sent() -> None:
    escaped("a\udcff.jpg" * 1000).encode()
    assert len(shown(escaped("." * 5000))) < 1000


def test_a_key_is_of_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = ("store", "other/store", "s3://a/store", "s3://b/store", "été 1", "/")
    keys = [store_key(place) for place in places]
    assert len(set(keys)) == len(places)
    assert store_key(str(tmp_path / "store")) == store_key("./store/") == keys[0]
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for key in keys)


def test_a_plain_run_is_told_in_sentences_and_without_prefect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table and the words are of a real run, with names that mean harm."""
    for name in [name for name in sys.modules if name.split(".")[0] == "prefect"] + ["prefect"]:
        monkeypatch.setitem(sys.modules, name, None)  # to import it fails
    caplog.set_level(logging.INFO, "flows")
    source = tmp_path / "in"
    source.mkdir()
    for kind in ("kiwi", "pear"):
        for number in (1, 2, 3):
            shutil.copy(DATA / f"images/food/{kind}/{kind}-0{number}.jpg", source)
    (source / "kiwi-01.jpg").rename(source / "<img src=x onerror=alert(1)>|`.jpg")
    (source / "`bad`|<b>.jpg").write_bytes(b"\xff\xd8\xff no picture")
    config = demo_config(
        tmp_path / "st|ore",
        sources=[str(source)],
        labels={"label_set": "kiwi,pear,</script><script>|`x"},
    )
    drop = run_plain(config)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("embed: 6 images embedded, 0 known") for line in lines)
    assert any(line.startswith("report: ") and "report.html" in line for line in lines)
    assert any(line.startswith("train: ") and "Summary(" not in line for line in lines)
    assert not any("Summary(" in line for line in lines)

    rows = drop_table(config, drop)
    numbers = {row["what"]: row["number"] for row in rows}
    assert len(numbers) == len(rows)
    assert numbers["files new"] == 7
    assert numbers["images embedded"] == 6
    assert numbers["files unreadable"] == 1
    assert numbers["images labelled"] == 6
    assert {"images selected", "samples trained on"} <= set(numbers)
    for row in rows:
        kinds, _ = text_of(str(row["more"]))
        assert kinds <= PLAIN

    words = drop_words(config, drop)
    kinds, text = text_of(words)
    assert drop.report is not None
    assert str(Path(config.store).resolve() / drop.report.page) in text
    assert not kinds & {"link_open", "html_inline", "html_block"}
    assert "<code>pseudolabel audit</code>" in GFM.render(words)
    run = config.run.model_copy(update={"store_url": "https://nas/a%20b/"})
    html = GFM.render(drop_words(config.model_copy(update={"run": run}), drop))
    assert f'<a href="https://nas/a%20b/{drop.report.page}">' in html


@pytest.mark.parametrize("url", ["nas/store", "javascript:alert(1)", "https://a b", "https://<x>"])
def test_a_place_that_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"run\.store_url"):
        make_config({"run": {"store_url": url}})


def test_a_small_sheet_shows_the_first_rows_whole() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (THUMB, THUMB, 3), dtype=np.uint8)
    pictures = {"a": Image.fromarray(noise)}
    rows = [Row(f"class {n}", 10, [("a", 0.9)] * 5, [("a", 0.1)] * 5) for n in range(60)]
    file = BytesIO()
    whole = draw_sheet(rows, "a sheet", 5, pictures)
    whole.save(file, "PNG")
    small = small_sheet(file.getvalue(), at_most=100_000)
    assert small is not None
    assert len(small.content) <= 100_000
    assert 1 <= small.rows < small.of == 60
    with Image.open(BytesIO(small.content)) as opened:
        assert opened.format == "WEBP"
        assert opened.width == round(whole.width * SCALE)
        cut = whole.crop((0, 0, whole.width, round(opened.height / SCALE))).convert("RGB")
        theirs = np.asarray(cut.resize(opened.size), np.float32)
        assert np.abs(np.asarray(opened, np.float32) - theirs).mean() < 30  # noise, by WebP
    assert small_sheet(file.getvalue(), at_most=500) is None
    few = BytesIO()
    draw_sheet(rows[:2], "a sheet", 5, {}).save(few, "PNG")
    small = small_sheet(few.getvalue(), at_most=100_000)
    assert small is not None
    assert (small.rows, small.of) == (2, 2)
