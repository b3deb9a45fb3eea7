"""Exports, read back with other libraries than the ones that wrote them."""

import csv
import json
import math
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.images.decoding import image_id
from pipeline.reports.export import COLUMNS, export
from pipeline.search.index import update_index
from pipeline.store import Store
from pipeline.tables import NEIGHBOURS
from tests.helpers import axis, draw, label_set, label_store, make_store, write_selection

CLASSES = label_set("dog", "猫/cat", "..")
SURE = 1 / (1 + math.exp(-2) + math.exp(-8))  # 0.88: of a dog with logits 8, 6 and 0


@dataclass(frozen=True)
class Shop:
    """A store of five files: a red dog in two places, a green cat, an unsure and a broken one."""

    store: Store
    photos: Path
    ids: dict[str, str]  # by colour

    def path(self, name: str) -> str:
        return str(self.photos / name)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    photos = tmp_path / "photos"
    red, green = draw(photos / "a/1.png", "red"), draw(photos / "b/1 #&%41?é.png", "green")
    again = draw(photos / "b/1.png", "red")
    blue = draw(photos / "c.png", "blue")
    doggish = np.array([0.8, 0.6, 0, 0], np.float32)  # logits 8, 6 and 0
    vectors = {red: doggish, green: axis(1), again: doggish, blue: axis(3)}
    broken, lost = photos / "broken.png", photos / "lost.png"
    store = make_store(tmp_path / "store", vectors, unreadable={broken: "cut"}, gone=[lost])
    label_store(store, CLASSES, abstain_below=0.5)  # blue is as far from one class as from another
    named = zip(("red", "green", "blue"), (red, green, blue), strict=True)
    ids = {colour: image_id(path.read_bytes()) for colour, path in named}
    write_selection(store, {ids["red"]: "train"}, {ids["green"]: "more than 1 of its class"})
    return Shop(store, photos, ids)


def test_agreement_is_told_once_neighbours_were_searched(shop: Shop, tmp_path: Path) -> None:
    """By hand: red's neighbour is green, and blue has no label; nobody knows green's."""

    def told() -> dict[str, float | None]:
        export(shop.store, tmp_path / "out.parquet", "parquet")
        table = pq.read_table(tmp_path / "out.parquet")
        return {row["path"]: row["agreement"] for row in table.to_pylist()}

    assert set(told().values()) == {None}
    update_index(shop.store)
    red, green, blue = (shop.ids[colour] for colour in ("red", "green", "blue"))
    near = [
        {"image_id": red, "neighbours": [green, blue], "cosines": [0.6, 0.0]},
        {"image_id": blue, "neighbours": [red], "cosines": [0.0]},
        {"image_id": green, "neighbours": [blue], "cosines": [0.0]},
    ]
    table = pa.Table.from_pylist(near, NEIGHBOURS)
    shop.store.write_part("neighbours/0", "20240101T000000000000-00000", table)
    rows = told()
    assert rows[shop.path("a/1.png")] == rows[shop.path("b/1.png")] == 0.0
    others = ("c.png", "broken.png", "b/1 #&%41?é.png")
    assert [rows[shop.path(name)] for name in others] == [None] * 3


def names_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_parquet_has_a_row_for_each_file_that_is_there(shop: Shop, tmp_path: Path) -> None:
    summary = export(shop.store, tmp_path / "new/out.parquet", "parquet")
    table = pq.read_table(tmp_path / "new/out.parquet")
    assert table.column_names == COLUMNS
    assert summary.rows == len(table) == 5
    rows = {row["path"]: row for row in table.to_pylist()}
    assert list(rows) == sorted(rows)
    assert shop.path("lost.png") not in rows
    red = rows[shop.path("a/1.png")]
    assert red["score"] == red["confidence"] == pytest.approx(SURE, abs=1e-3)  # stored in float16
    assert (red["label"], red["topk_labels"]) == ("dog", ["dog", "猫/cat"])
    assert (red["selected"], red["split"], red["reason"]) == (True, "train", None)
    green = rows[shop.path("b/1 #&%41?é.png")]
    assert (green["label"], green["selected"], green["split"]) == ("猫/cat", False, None)
    assert green["reason"] == "more than 1 of its class"
    blue = rows[shop.path("c.png")]
    assert (blue["label"], blue["reason"]) == (None, "score below 0.5")
    assert blue["topk_scores"] == pytest.approx([1 / 3, 1 / 3])


def test_an_unreadable_file_stays_with_its_reason(shop: Shop, tmp_path: Path) -> None:
    export(shop.store, tmp_path / "out.parquet", "parquet")
    rows = {row["path"]: row for row in pq.read_table(tmp_path / "out.parquet").to_pylist()}
    broken = rows[shop.path("broken.png")]
    assert broken.pop("reason") == "cut"
    assert broken.pop("path")
    assert broken.pop("selected") is False
    assert set(broken.values()) == {None}


def test_csv_says_what_parquet_says(shop: Shop, tmp_path: Path) -> None:
    export(shop.store, tmp_path / "out.csv", "csv")
    export(shop.store, tmp_path / "out.parquet", "parquet")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == COLUMNS
    for row, wanted in zip(rows, pq.read_table(tmp_path / "out.parquet").to_pylist(), strict=True):
        for name in ("path", "image_id", "label", "split", "reason"):
            assert row[name] == (wanted[name] or "")
        assert row["selected"] == str(wanted["selected"]).lower()
        assert row["topk_labels"] == "|".join(wanted["topk_labels"] or [])
    scores = [SURE, SURE * math.exp(-2)]
    assert float(rows[0]["score"]) == pytest.approx(scores[0], abs=1e-3)
    assert [float(s) for s in rows[0]["topk_scores"].split("|")] == pytest.approx(scores, abs=1e-3)


def test_label_studio_gets_a_task_with_a_prediction_for_each_label(
    shop: Shop, tmp_path: Path
) -> None:
    export(shop.store, tmp_path / "tasks.json", "label-studio")
    tasks = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    said = {}
    for task in tasks:
        link = urlsplit(task["data"]["image"])
        assert (link.path, link.fragment) == ("/data/local-files/", "")
        (prediction,) = task["predictions"]
        (path,) = parse_qs(link.query)["d"]
        (choices,) = (result["value"]["choices"] for result in prediction["result"])
        said["/" + path] = (choices, prediction["score"])
    assert said == {
        shop.path("a/1.png"): (["dog"], pytest.approx(SURE, abs=1e-3)),
        shop.path("b/1.png"): (["dog"], pytest.approx(SURE, abs=1e-3)),
        shop.path("b/1 #&%41?é.png"): (["猫/cat"], pytest.approx(1, abs=1e-3)),
    }


def test_an_image_folder_holds_each_labelled_file_under_its_label(
    shop: Shop, tmp_path: Path
) -> None:
    summary = export(shop.store, tmp_path / "out", "imagefolder")
    again = f"dog/1-{shop.ids['red'][:8]}.png"  # the same name from two folders
    assert names_below(tmp_path / "out") == [again, "dog/1.png", "猫%2Fcat/1 #&%41?é.png"]
    assert summary.rows == 3
    copied = (tmp_path / "out/dog/1.png").read_bytes()
    assert image_id(copied) == shop.ids["red"]


def test_labels_that_look_alike_as_folders_stay_apart(tmp_path: Path) -> None:
    labels = ("a/b", "a_b", "a%2Fb", "..")
    files = {draw(tmp_path / f"{n}.png", f"#00000{n}"): axis(n) for n in range(4)}
    store = make_store(tmp_path / "store", files)
    label_store(store, label_set(*labels))
    export(store, tmp_path / "out", "imagefolder")
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert len(names_below(tmp_path / "out")) == 4


def test_webdataset_shards_hold_each_image_once_with_class_and_labels(
    shop: Shop, tmp_path: Path
) -> None:
    export(shop.store, tmp_path / "out", "webdataset")
    assert names_below(tmp_path / "out") == ["shard-00000.tar"]
    with tarfile.open(tmp_path / "out/shard-00000.tar") as tar:
        assert len(tar.getnames()) == 6
        files = {entry.name: entry_bytes(tar, entry) for entry in tar}
    keys = [shop.ids["red"], shop.ids["green"]]
    assert list(files) == [f"{key}.{kind}" for key in keys for kind in ("png", "cls", "json")]
    assert [files[f"{key}.cls"] for key in keys] == [b"0", b"1"]  # as the label set counts them
    assert [image_id(files[f"{key}.png"]) for key in keys] == keys
    about = json.loads(files[f"{keys[1]}.json"])
    assert (about["label"], about["path"]) == ("猫/cat", shop.path("b/1 #&%41?é.png"))


def entry_bytes(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(entry)
    assert file
    return file.read()


@pytest.mark.parametrize("form", ["parquet", "csv", "label-studio", "imagefolder", "webdataset"])
def test_selected_only_leaves_out_everything_else(shop: Shop, tmp_path: Path, form: str) -> None:
    assert export(shop.store, tmp_path / "out", form, selected_only=True).rows == 2  # red, twice


@pytest.mark.parametrize("form", ["imagefolder", "webdataset"])
def test_a_file_deleted_since_is_told_and_not_a_traceback(
    shop: Shop, tmp_path: Path, form: str
) -> None:
    (shop.photos / "b/1 #&%41?é.png").unlink()
    with pytest.raises(InputError, match=r"1 #&%41\?é\.png"):
        export(shop.store, tmp_path / "out", form)
    assert names_below(tmp_path / "out") == []  # nor is a part of it left behind


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("xlsx", "format 'xlsx': choose one of parquet, csv, imagefolder, webdataset"),
        ("imagefolder", "photos: holds files already; name a new folder"),
        ("webdataset", "photos: holds files already; name a new folder"),
        ("parquet", "photos: is a folder"),
        ("csv", "photos: is a folder"),
        ("label-studio", "photos: is a folder"),
    ],
)
def test_a_bad_format_or_place_is_named_and_nothing_is_touched(
    shop: Shop, form: str, says: str
) -> None:
    before = names_below(shop.photos.parent)
    with pytest.raises(InputError, match=says):
        export(shop.store, shop.photos, form)
    assert names_below(shop.photos.parent) == before


def test_a_folder_cannot_take_the_place_of_a_file(shop: Shop) -> None:
    with pytest.raises(InputError, match=r"c\.png"):
        export(shop.store, shop.photos / "c.png", "imagefolder")


def test_a_store_without_labels_has_nothing_to_export(shop: Shop, tmp_path: Path) -> None:
    shutil.rmtree(Path(shop.store.location) / "labels")
    with pytest.raises(InputError, match="holds no labels yet"):
        export(shop.store, tmp_path / "out.csv", "csv")


def test_an_image_that_went_is_taken_from_where_else_it_lies(shop: Shop, tmp_path: Path) -> None:
    Path(shop.path("a/1.png")).unlink()
    export(shop.store, tmp_path / "out", "imagefolder")
    assert names_below(tmp_path / "out") == ["dog/1.png", "猫%2Fcat/1 #&%41?é.png"]
    Path(shop.path("b/1.png")).unlink()
    with pytest.raises(InputError, match=r"1\.png: went away since it was last seen, with 1 other"):
        export(shop.store, tmp_path / "again", "imagefolder")


def test_a_url_is_no_place_to_export_to(shop: Shop) -> None:
    with pytest.raises(InputError, match=r"s3:/bucket/out\.csv: is a url"):
        export(shop.store, Path("s3://bucket/out.csv"), "csv")
