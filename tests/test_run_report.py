"""The page of a run: hostile names, every kind of run, its size, and what can be told again."""

import json
from dataclasses import asdict
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image

from flows.drop import DropSummary
from pipeline.arrays import Floats
from pipeline.caching import cached_arrays
from pipeline.errors import InputError
from pipeline.images.decoding import Decode, decode
from pipeline.label_set import LabelSet, LabelVectors
from pipeline.labels.labelling import label
from pipeline.labels.question import Question
from pipeline.opening import open_store
from pipeline.reports.contact_sheet import THUMBNAIL
from pipeline.reports.examples import class_examples, disagreement, drop_labels
from pipeline.reports.run_page import run_page
from pipeline.reports.run_report import RunReport, gather
from pipeline.reports.verdict import verdict
from pipeline.runs import find_run
from pipeline.search.index import update_index
from pipeline.search.neighbours import neighbours_table
from pipeline.store import Store
from pipeline.tables import NEIGHBOURS
from tests.conftest import DATA, demo_config, pseudolabel, run_plain
from tests.helpers import axis, draw, label_set, label_store, make_store
from tests.s3 import S3

RUN = "20240101T000000000000"
DECODE: Decode = partial(decode, fit=THUMBNAIL, max_pixels=10**7)
HOSTILE = "<img src=x onerror=alert(1)>\"'&.png"


class Page(HTMLParser):
    """Reads a page as a browser would, and holds it to what it promises."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.data: list[str] = []
        self.rules = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), (tag, name)
            assert name != "style" or tag in ("i", "u"), value
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "action", "data", "srcset", "xlink:href", "poster"):
                assert value is not None
                assert value.startswith(("#", "data:image/jpeg;base64,")), value[:99]
                self.links += [value[1:]] if value.startswith("#") else []
                self.data += [value] if value.startswith("data:") else []
            if (name, value) == ("http-equiv", "Content-Security-Policy"):
                self.rules = dict(attributes)["content"] or ""

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def pictures(self) -> int:
        return len(self.data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def checked(page: str) -> Page:
    """Read a page, which asks nothing of a network, runs nothing, and links to what is there."""
    read = Page(page)
    assert not {"script", "iframe", "object", "embed", "link", "form", "base"} & set(read.tags)
    assert set(read.links) <= set(read.ids)
    assert len(read.ids) == len(set(read.ids))
    assert read.rules.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert "url(" not in page and "@import" not in page
    assert len(page.encode()) < 5_000_000
    return read


def page_of(store: Store, run_id: str = RUN, summary: dict[str, Any] | None = None) -> Page:
    return checked(run_page(gather(store, run_id, summary), decode=DECODE))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Reds along one axis, blues along another, one file unreadable."""
    images: dict[Path, Floats] = {}
    for number in range(12):
        place = tmp_path / "in" / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.new("RGB", (30 + number, 20), "red" if number < 8 else "blue").save(place)
        images[place] = axis(0) if number < 8 else axis(1)
    made = make_store(
        tmp_path / "store", images, unreadable={tmp_path / "in/bad.png": "OSError: it is cut"}
    )
    label_store(made, label_set("red", "blue"))
    return made


def test_the_page_says_what_arrived_and_what_failed(store: Store) -> None:
    page = page_of(store)
    assert "12 new images arrived; 12 of 12 images have a label." in page.text
    assert "1 file could not be read, for 1 reason." in page.text
    assert "OSError: it is cut" in page.text
    assert "these are the first images" in page.text
    assert {"red", "blue"} <= set(page.texts)
    assert page.pictures == 8 + 4 + 12  # of the classes, and those that fit least


def test_names_labels_captions_and_reasons_are_text(tmp_path: Path) -> None:
    picture = draw(tmp_path / HOSTILE, "red")
    bad = tmp_path / "</title><script>alert(2)</script>.png"
    store = make_store(
        tmp_path / "store", {picture: axis(0)}, unreadable={bad: "<b onmouseover=alert(3)>'x'</b>"}
    )
    classes = label_set("</script><script>alert(4)</script>", "<svg/onload=alert(5)>")
    label_store(store, classes)
    told = gather(store, RUN, {"config": {"x": "</pre><script>"}, "not_trained": "<script>"})
    [image] = told.arrived.images
    captioned = {**vars(told), "captions": {image: "<script>alert(6)</script>"}}
    page = checked(run_page(RunReport(**captioned), decode=DECODE))
    assert "img" in page.tags  # its picture
    for said in ("</script><script>alert(4)</script>", "<script>alert(6)</script>", bad.name):
        assert said in page.text
    assert page.pictures == 2


def test_a_run_with_failures_alone(tmp_path: Path) -> None:
    bad = {tmp_path / f"{number}.png": f"OSError: line {number}" for number in range(50)}
    store = make_store(tmp_path / "store", {}, unreadable=bad)
    page = page_of(store)
    assert "50 files could not be read, for 1 reason." in page.text
    assert "OSError: line #" in page.text
    assert "The store has no labels yet." in page.text
    assert page.pictures == 0


def test_a_thousand_classes_and_pictures_that_do_not_compress(tmp_path: Path) -> None:
    rng, images = np.random.default_rng(0), {}
    for number in range(300):
        place = tmp_path / "in" / f"{'long' * 40}{number:03}.png"
        place.parent.mkdir(exist_ok=True)
        noise = rng.integers(0, 255, (112, 112, 3), dtype=np.uint8)
        Image.fromarray(noise).save(place)
        row = rng.normal(size=4).astype(np.float32)
        images[place] = row / np.linalg.norm(row)
    store = make_store(tmp_path / "store", images)
    names = [{"name": f"{'a class with a long name ' * 8}{number}"} for number in range(1000)]
    classes = LabelSet.model_validate({"name": "many", "classes": names})
    text = rng.normal(size=(1000, 4)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    asked = Question(label_set=classes, top_k=2, abstain_below=0.0)
    label(store, asked, LabelVectors(classes=text, rejects=text[:0]))
    report = gather(store, RUN, None)
    assert report.labelled is not None
    page = run_page(report, decode=DECODE)
    read = checked(page)
    assert f"and {len(report.labelled.classes) - 30} more classes" in read.text
    assert read.pictures > 20
    assert len(page) > 200_000  # noise indeed


def test_pictures_end_where_the_page_would_be_too_large(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.reports.run_page.PICTURE_BYTES", 3000)
    page = page_of(store)
    assert 0 < page.pictures < 24
    assert sum(map(len, page.data)) <= 3000
    assert "not shown" in page.text


def test_several_labels_an_image(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", {draw(tmp_path / "a.png", "red"): axis(0)})
    names = [{"name": "red"}, {"name": "blue"}]
    classes = LabelSet.model_validate({"name": "m", "multi_label": True, "classes": names})
    rows = np.eye(4, dtype=np.float32)
    label(
        store,
        Question(label_set=classes, top_k=2, abstain_below=0.0),
        LabelVectors(classes=rows[:2], rejects=rows[2:3]),
    )
    assert "An image may have several labels" in page_of(store).text


def test_class_examples_stand_once_and_in_order() -> None:
    rows = pl.DataFrame(
        {
            "image_id": [f"{n:02}" for n in range(20)],
            "path": [f"{n}.png" for n in range(20)],
            "label": ["a"] * 18 + ["b", None],
            "confidence": [n / 20 for n in range(20)],
            "margin": [(7 * n % 20) / 20 for n in range(20)],
            "topk_labels": [["a", "b"]] * 20,
        }
    )
    first, second = class_examples(rows)
    assert [e.image_id for e in first.best] == ["17", "16", "15", "14"]
    assert [e.image_id for e in first.worst] == ["00", "01", "02", "03"]
    # Margins of 4 to 13 are 8, 15, 2, 9, 16, 3, 10, 17, 4, 11 twentieths.
    assert [e.image_id for e in first.unsure] == ["06", "09", "12", "04"]
    # And of 0 to 3: 0, 7, 14, 1.
    words = ["0.00, or b", "0.05, or b", "0.10", "0.15, or b"]
    assert [e.words for e in first.worst] == words
    assert [e.words for e in first.best] == ["0.85", "0.80", "0.75, or b", "0.70"]  # 19, 12, 5, 18
    assert (second.label, second.images, len(second.best), second.worst) == ("b", 1, 1, [])


def test_neighbours_that_disagree_are_read_not_searched(store: Store) -> None:
    update_index(store)
    images = pl.DataFrame(store.read("embeddings", ["image_id"]))["image_id"].to_list()
    shown = pl.DataFrame({"image_id": images, "path": images})
    assert disagreement(store, RUN, drop_labels(store, RUN, shown)).why_not is not None
    near = [images[8:12]] + [images[:3] + images[8:9]] + [images[:4]] * 10
    cosines = [[0.9] * 4] * 12
    rows = pa.table([images, near, cosines], names=NEIGHBOURS.names).cast(NEIGHBOURS)
    store.write_part(neighbours_table(12), f"{RUN}-00000", rows)
    found = disagreement(store, RUN, drop_labels(store, RUN, shown))
    # Image 0 (red) has four blue neighbours, image 1 one of four; the blues have red ones only.
    assert found.looked_at == 12
    assert found.mean == pytest.approx((0 + 0.75 + 6 * 1 + 4 * 0) / 12)
    assert {each.image_id for each in found.images} == {images[0], *images[8:]}
    assert found.number == 5


def test_a_second_drop_is_held_against_the_first_and_told_again_later(tmp_path: Path) -> None:
    """A real run, its page, metrics and drift; the report of each run, made again."""
    animals = sorted((DATA / "images/animals").rglob("*.jpg"))[:40]
    food = sorted((DATA / "images/food").rglob("*.*"))[:30]
    place = tmp_path / "in"
    config = demo_config(tmp_path / "store", sources=[str(place)], train={"every_run": False})
    runs: list[DropSummary] = []
    for drop in (animals, food):
        place.mkdir(exist_ok=True)
        for number, file in enumerate(drop):
            (place / f"{len(runs)}-{number}{file.suffix}").write_bytes(file.read_bytes())
        runs.append(run_plain(config))
    opened = open_store(config.store)
    first, second = (run.report for run in runs)
    assert first is not None and second is not None
    assert (first.drift, second.drift) == ("not known", "strong")
    content = opened.get(second.page)
    assert content is not None
    page = checked(content.decode())
    assert "Drift is strong" in page.text
    kept: dict[str, Any] = opened.get_json(f"runs/{runs[1].run_id}/drift.json")
    assert kept["verdict"] == "strong"
    summary = opened.get_json(second.summary)
    again = gather(opened, runs[1].run_id, summary)
    assert json.loads(json.dumps(asdict(again.drift))) == kept
    # The first run again: what came later is not mixed in.
    old = gather(opened, runs[0].run_id, opened.get_json(first.summary))
    assert old.drift.verdict == "not known"
    assert old.labelled is not None
    assert old.labelled.images == len(old.arrived.images) == 39  # two are copies
    # Where the run left no summary, that is said.
    opened.delete(first.summary)
    bare = verdict(gather(opened, runs[0].run_id, None))
    assert any("not known any more" in point.words for point in bare.points)
    out = tmp_path / "page.html"
    named = ("report", runs[0].run_id[:-3], "--store", config.store)
    run = pseudolabel(*named, "--out", str(out), "--json")
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert (told["run_id"], told["report"]) == (runs[0].run_id, str(out))
    assert "not known any more" in checked(out.read_text()).text


def test_a_run_is_found_by_how_its_name_begins(store: Store) -> None:
    store.put_json("runs/20240105T000000000000/summary.json", {})
    assert find_run(store, None) == "20240105T000000000000"
    assert find_run(store, "20240101") == RUN
    for given, says in (("2024", "2 runs"), ("1999", "no run")):
        with pytest.raises(InputError, match=says):
            find_run(store, given)


def test_a_store_in_a_bucket_has_its_page_too(s3: S3, tmp_path: Path) -> None:
    from pipeline.opening import create_store
    from tests.helpers import IDENTITY, embedding_rows, write_observations

    remote = create_store(s3.url("store"))
    remote.claim(IDENTITY)
    picture = draw(tmp_path / "a.png", "red")
    write_observations(remote, f"{RUN}-00000", [(picture, "a" * 32, "ok", None)])
    remote.write_part("embeddings", f"{RUN}-00000", embedding_rows(["a" * 32], [axis(0)]))
    label_store(remote, label_set("red", "blue"))
    page = checked(run_page(gather(remote, RUN, None, keep=True), decode=DECODE))
    assert "1 new image arrived" in page.text
    assert cached_arrays(remote, "cache/drift-sample.npz") is not None
