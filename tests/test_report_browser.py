"""The page of a run in a real browser: it asks for nothing, runs nothing, and shows everything.

What the page is made of is held by test_run_report.py, without a browser.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.reports.run_page import run_page
from pipeline.reports.run_report import RunReport, gather
from tests.browser import CHROMIUM, NAMES, Browser, chromium
from tests.helpers import axis, draw, label_set, label_store, make_store
from tests.test_run_report import DECODE, HOSTILE, RUN

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"no browser: none of {', '.join(NAMES)}")
LABEL = "</script><script>alert(4)</script>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as made:
        yield made


def test_the_page_asks_for_nothing_runs_nothing_and_its_links_lead_somewhere(
    browser: Browser, tmp_path: Path
) -> None:
    named = "<img src=x onerror=alert(1)>.jpg"
    images = {draw(tmp_path / HOSTILE, "red"): axis(0), draw(tmp_path / named, "blue"): axis(1)}
    bad = tmp_path / "</title><script>alert(2)</script>.png"
    store = make_store(tmp_path / "store", images, unreadable={bad: "<svg/onload=alert(3)>"})
    label_store(store, label_set(LABEL, "<img src=http://127.0.0.1:9/x onerror=alert(5)>"))
    told = gather(store, RUN, {"config": {"x": "</pre><script>alert(6)</script>"}})
    captions = dict.fromkeys(told.arrived.images, "<script>alert(7)</script>")
    report = RunReport(**{**vars(told), "captions": captions})
    page = tmp_path / "report.html"
    page.write_text(run_page(report, decode=DECODE))
    visit = browser.visit(page.as_uri())
    assert (visit.requests, visit.said, visit.dialogs) == ([], [], [])
    assert browser.value_of("document.scripts.length") == 0
    pictures = "[...document.images].map(image => image.naturalWidth > 0)"
    shown = browser.value_of(pictures)
    assert len(shown) >= 2
    assert all(shown)
    links = browser.value_of("[...document.links].map(link => link.getAttribute('href'))")
    assert len(links) >= 5
    lost = [link for link in links if not browser.value_of(f"!!document.querySelector('{link}')")]
    assert lost == []
    text = browser.value_of("document.body.innerText")
    for said in (LABEL, bad.name, "<script>alert(7)</script>"):
        assert said in text
    titles = browser.value_of("[...document.images].map(image => image.title)")
    assert any(title.endswith(named) for title in titles)


def test_a_page_that_does_what_it_must_not_would_be_seen(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<img src=http://127.0.0.1:9/x.png onerror=alert(1)><script>oops()</script>")
    visit = browser.visit(page.as_uri())
    assert visit.requests == ["http://127.0.0.1:9/x.png"]
    assert visit.dialogs == ["1"]
    assert any("oops" in said for said in visit.said)
