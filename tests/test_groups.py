"""Groups of near-duplicates worked by hand, and the command that tells of them."""

import json
import shutil
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from pipeline.arrays import Floats, unit_rows
from pipeline.errors import InputError
from pipeline.images.decoding import Picture, Refusal, decode
from pipeline.reports.contact_sheet import GAP, HEADER, NAMES, THUMB, THUMBNAIL
from pipeline.reports.duplicate_sheet import duplicate_sheet
from pipeline.search.groups import best_first, find_groups, with_reasons
from pipeline.search.index import load_index, update_index
from pipeline.search.neighbours import update_neighbours
from pipeline.store import Store
from tests.conftest import demo_config
from tests.helpers import axis, draw, embedding_rows, label_set, label_store, make_store


def tilted(angle: float, towards: int = 3) -> Floats:
    row: Floats = unit_rows((axis(0) + angle * axis(towards))[None])[0]
    return row


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A chain of three (neighbours at cosine 0.98, its ends at 0.92), a pair, one alone, a copy."""
    vectors = {
        "left": tilted(-0.2),
        "middle": tilted(0.0),
        "right": tilted(0.2),
        "one": axis(1),
        "other": axis(1),
        "alone": axis(2),
    }
    colours = ["red", "green", "blue", "white", "black", "gray"]
    files = {
        draw(tmp_path / f"in/{name}.png", colour): vector
        for (name, vector), colour in zip(vectors.items(), colours, strict=True)
    }
    copy = Path(shutil.copy(tmp_path / "in/alone.png", tmp_path / "in/copy.png"))
    made = make_store(tmp_path / "store", files | {copy: axis(2)})
    label_store(made, label_set("east", "north"))
    update_index(made)
    return made


def sized(store: Store, sizes: dict[str, int]) -> None:
    """Give some images a width, by the names of their files."""
    names = dict(store.read("files").select("image_id", "path").iter_rows())
    wide = [sizes.get(Path(names[i]).stem, 4) for i in store.read("embeddings")["image_id"]]
    rows = store.read("embeddings").with_columns(width=pl.Series(wide, dtype=pl.Int32))
    [part] = store.parts("embeddings")
    schema = embedding_rows([], []).schema
    store.write_part("embeddings", part, rows.to_arrow().cast(schema))
    update_neighbours(store, load_index(store))


def told(store: Store, cosine: float = 0.97, *, crowds: bool = False) -> list[list[str]]:
    found = find_groups(store, load_index(store), cosine=cosine, crowds=crowds)
    groups = found.members.partition_by("group", maintain_order=True)
    assert [group["group"][0] for group in groups] == list(range(len(groups)))
    assert all(group["best"].to_list() == [True] + [False] * (len(group) - 1) for group in groups)
    return [[Path(path).stem for path in group["path"]] for group in groups]


def test_groups_follow_their_best_and_crowds_chain(store: Store) -> None:
    sized(store, {"middle": 9, "other": 5})
    assert told(store) == [["middle", "left", "right"], ["other", "one"]]
    sized(store, {"left": 9})  # the right one is not like it, and nobody's near-duplicate then
    assert told(store) == [["left", "middle"], ["one", "other"]]
    assert told(store, crowds=True) == [["left", "middle", "right"], ["one", "other"]]
    assert told(store, 1.0) == [["one", "other"]]


def test_what_is_told_of_a_group(store: Store) -> None:
    sized(store, {"middle": 9})
    found = find_groups(store, load_index(store), cosine=0.97)
    assert (found.images, found.pairs, found.recall, found.neighbour_recall) == (6, 3, 1.0, 1.0)
    rows = {Path(row["path"]).stem: row for row in found.members.iter_rows(named=True)}
    assert rows["left"]["cosine"] == pytest.approx(1.04**-0.5, abs=1e-3)
    assert rows["middle"]["cosine"] == pytest.approx(1, abs=1e-3)
    assert rows["middle"]["reason"] == "most pixels: 9 x 3"
    assert rows["left"]["reason"] is None
    assert rows["one"]["reason"] == "nothing tells them apart: the first by path"
    [copies] = found.copies["paths"].to_list()
    assert [Path(path).stem for path in copies] == ["alone", "copy"]


def test_an_image_that_is_gone_is_in_no_group(store: Store, tmp_path: Path) -> None:
    sized(store, {"middle": 9})
    rows = store.read("files").filter(pl.col("path").str.ends_with("middle.png"))
    gone = rows.with_columns(status=pl.lit("gone"))
    schema = store.read_part("files", store.parts("files")[0]).schema
    store.write_part("files", "20240103T000000000000-scan", gone.to_arrow().cast(schema))
    assert told(store) == [["one", "other"]]
    still = sorted(told(store, crowds=True))  # it links them, as it does for splits
    assert still == [["left", "right"], ["one", "other"]]


def test_the_best_member_and_its_reason_by_hand() -> None:
    columns = ["group", "path", "width", "height", "pixels", "margin", "bytes"]
    rows = [
        (0, "a", 4, 3, 12, 0.9, 100),
        (0, "b", 6, 4, 24, 0.1, 50),
        (1, "c", 4, 4, 16, 0.2, 70),
        (1, "d", 2, 8, 16, 0.5, 10),
        (1, "e", 8, 2, 16, None, 99),
        (2, "g", 4, 4, 16, None, 7),
        (2, "f", 4, 4, 16, None, 8),
        (3, "i", 4, 4, 16, 0.5, 7),
        (3, "h", 4, 4, 16, 0.5, 7),
        (3, "j", 4, 4, 16, 0.4, 9),
    ]
    images = pl.DataFrame(rows, schema=columns, orient="row")
    ordered = best_first(images).sort("group", maintain_order=True)
    best = with_reasons(ordered).filter("best")
    assert best["path"].to_list() == ["b", "d", "f", "h"]
    assert best["reason"].to_list() == [
        "most pixels: 6 x 4",
        "no other has more pixels, and its label is clearest: margin 0.5",
        "nothing else tells them apart, and it has the most bytes: 8",
        "nothing tells them apart: the first by path",
    ]


@pytest.mark.parametrize("cosine", [0.0, -0.5, 1.01, float("nan"), float("inf")])
def test_a_bad_threshold_is_told(store: Store, cosine: float) -> None:
    with pytest.raises(InputError, match=r"threshold .*: a cosine above 0, up to 1, is needed"):
        find_groups(store, load_index(store), cosine=cosine)
    run = CliRunner().invoke(app, ["duplicates", "--threshold", str(cosine), "--store", "s"])
    assert isinstance(run.exception, InputError)  # before the store is opened


@pytest.mark.parametrize("option", [("--sheet", "groups.jpg"), ("--out", "groups.txt")])
def test_a_file_of_another_kind_is_told(option: tuple[str, str]) -> None:
    run = CliRunner().invoke(app, ["duplicates", *option, "--store", "s"])
    assert isinstance(run.exception, InputError)  # before the store is opened
    assert f"{option[1]}: name a file that ends in" in str(run.exception)


def test_the_sheet_shows_each_group_with_its_best_in_a_frame(tmp_path: Path) -> None:
    Image.new("RGB", (50, 80), (10, 20, 200)).save(tmp_path / "blue.png")
    names = [str(tmp_path / "blue.png"), *(f"gone{n}.png" for n in range(9))]
    members = pl.DataFrame({"path": names, "group": 0, "width": 50, "height": 80, "cosine": 0.98})
    members = members.with_columns(best=pl.int_range(10) == 0)

    def in_process(data: bytes, name: str) -> Picture | Refusal:
        return decode(data, name, THUMBNAIL, max_pixels=10**6)

    png = duplicate_sheet(members, "title", decode=in_process, limit=1)
    sheet = Image.open(BytesIO(png))
    middle = (NAMES + THUMB // 2, HEADER + THUMB // 2)
    assert sheet.getpixel(middle) == (10, 20, 200)
    assert sheet.getpixel((NAMES + 1, HEADER + 1)) == (0x2E, 0x8B, 0x57)
    assert sheet.getpixel((middle[0] + THUMB + GAP, middle[1])) == (0xC9, 0xCC, 0xD1)
    assert sheet.width == NAMES + 8 * (THUMB + GAP) + GAP  # of ten eight are shown
    none = duplicate_sheet(members, "title", decode=in_process, limit=0)
    assert Image.open(BytesIO(none)).height < HEADER + THUMB


def test_the_command_groups_a_store_whose_neighbours_nobody_searched(
    demo_store: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo_store, tmp_path / "store")
    shutil.rmtree(tmp_path / "store/neighbours")
    model = demo_config(tmp_path).encoder.model
    asked = ["duplicates", "--store", str(tmp_path / "store"), "--threshold", "0.9", "--json"]
    asked += ["--sheet", str(tmp_path / "sheet.png"), "--set", f"encoder.model={model}"]
    run = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "groups.csv"), "--limit", "1"])
    assert run.exit_code == 0, run.exception
    found = json.loads(run.stdout)
    assert (found["threshold"], found["recall"]) == (0.9, 1.0)
    sizes = [len(group["images"]) for group in found["groups"]]
    assert sizes == sorted(sizes, reverse=True) == [group["size"] for group in found["groups"]]
    assert len(sizes) > 1
    table = pl.read_csv(tmp_path / "groups.csv")
    assert len(table) == sum(sizes)
    assert table["group"].n_unique() == len(sizes)
    assert Image.open(tmp_path / "sheet.png").height == HEADER + THUMB + 20 + 2 * GAP
    plain = CliRunner().invoke(app, [*asked[:-2], "--out", str(tmp_path / "g.parquet")])
    assert plain.exit_code == 0, plain.exception
    assert pl.read_parquet(tmp_path / "g.parquet").columns == table.columns
    bad = CliRunner().invoke(app, [*asked, "--out", "groups.txt"])
    assert "name a file that ends in .parquet or .csv" in str(bad.exception)


def test_the_table_for_a_person(store: Store) -> None:
    sized(store, {"middle": 9})
    run = CliRunner().invoke(
        app, ["duplicates", "--store", store.location, "--threshold", "0.97", "--limit", "1"]
    )
    text = " ".join(run.stdout.split())
    assert run.exit_code == 0, run.exception
    assert "2 groups of near-duplicates (cosine 0.97 and above) with 5 of 6 images" in text
    assert "of the true pairs of a sample 100.0 % are found" in text
    assert "most pixels" in text and "Exact duplicates: 1 image under several paths" in text
