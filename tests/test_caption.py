"""`caption`: a row for every image, whatever happens on the way, and nothing twice."""

import os
import shutil
import signal
from pathlib import Path

import open_clip
import polars as pl
import pytest
import torch
from PIL import Image

from flows import resources
from pipeline.captions import captions_of, current_captions, uncaptioned
from pipeline.compaction import compact
from pipeline.images.decoding import image_id
from pipeline.reports.export import export
from pipeline.reports.status import status
from pipeline.reports.verify import verify
from pipeline.store import Store
from tests.coca import write_coca
from tests.conftest import DATA, DemoRun, pseudolabel
from tests.crashing import warm_runs
from tests.helpers import NOON, axis, label_set, label_store, make_store, write_observations
from tests.test_cli import Command, command  # noqa: F401 - a fixture

FOOD = sorted((DATA / "images/food").rglob("*.*"))


@pytest.fixture(scope="module")
def coca(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_coca(tmp_path_factory.mktemp("coca") / "model")


@pytest.fixture
def shop(tmp_path: Path) -> Store:
    """A store of nine pictures, the first of which lies in two places."""
    photos = tmp_path / "photos"
    photos.mkdir()
    files = [Path(shutil.copy(source, photos)) for source in FOOD[:9]]
    twin = Path(shutil.copy(files[0], photos / "zz-twin.jpg"))
    store = make_store(tmp_path / "store", dict.fromkeys([*files, twin], axis(0)))
    label_store(store, label_set("dog", "cat"))
    return store


def photos(store: Store) -> list[Path]:
    return sorted((Path(store.location).parent / "photos").iterdir())


def arguments(store: Store, model: str, *more: str) -> tuple[str, ...]:
    exact = ("--precision", "fp32", "--device", "cpu", "--batch-size", "4", "--plain")
    return ("caption", "--store", store.location, "--model", model, *exact, *more)


def expected(model: str, files: list[Path]) -> dict[str, str]:
    """Return captions by image id as open_clip writes them, one picture at a time."""
    clip, _, transform = open_clip.create_model_and_transforms(model)
    clip.eval()
    said = {}
    for file in files:
        batch = transform(Image.open(file).convert("RGB"))[None]
        [row] = clip.generate(batch, generation_type="top_k", top_k=1, seq_len=12)
        words = open_clip.decode(row).split("<end_of_text>")[0].replace("<start_of_text>", "")
        said[image_id(file.read_bytes())] = words.strip()
    return said


def loading_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    resources._captioners.clear()
    monkeypatch.setattr("pipeline.clip.captioner.load_captioner", fails)


def test_each_image_gets_what_open_clip_writes_and_none_is_written_of_twice(
    command: Command,  # noqa: F811
    shop: Store,
    coca: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = command.json(*arguments(shop, coca))
    assert (told["captioned"], told["known"], told["failed"], told["left"]) == (9, 0, {}, 0)
    run = current_captions(shop)
    assert run is not None and run.table == told["table"] and run.model == coca
    rows = shop.read(run.table)
    assert len(rows) == rows["image_id"].n_unique() == 9
    assert captions_of(shop) == expected(coca, photos(shop)[:9])
    assert rows["weights"].unique().to_list() == [run.weights]
    assert rows["note"].null_count() == 9
    loading_fails(monkeypatch)
    assert command.json(*arguments(shop, coca)) == {"nothing_new": True, "known": 9}
    assert "all 9 images" in command(*arguments(shop, coca)).out


def test_a_later_drop_gets_its_own_and_a_limit_leaves_the_rest(
    command: Command,  # noqa: F811
    shop: Store,
    coca: str,
) -> None:
    first = command.json(*arguments(shop, coca, "--limit", "3"))
    assert (first["captioned"], first["left"]) == (3, 6)
    whole = expected(coca, photos(shop)[:9])
    assert captions_of(shop) == dict(list(whole.items())[:3])  # in order of their paths
    assert command.json(*arguments(shop, coca))["captioned"] == 6
    new = Path(shutil.copy(FOOD[20], photos(shop)[0].parent))
    identity = image_id(new.read_bytes())
    write_observations(shop, "20240103T000000000000-00000", [(new, identity, "ok", None)])
    before = shop.read(first["table"])
    said = command(*arguments(shop, coca)).out
    assert "1 images captioned" in said and "9 had a caption" in said
    after = shop.read(first["table"])
    assert after.head(9).equals(before)
    assert captions_of(shop) == whole | expected(coca, [new])


def test_what_cannot_be_read_is_told_and_tried_again(
    command: Command,  # noqa: F811
    shop: Store,
    coca: str,
) -> None:
    files = photos(shop)
    kept = {file: file.read_bytes() for file in files}
    files[0].unlink()  # its twin is there
    files[1].unlink()
    files[2].write_bytes(kept[files[2]][:200])
    files[3].write_bytes(kept[files[4]])
    broken = files[0].parent / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n that is all")
    identity = image_id(broken.read_bytes())
    write_observations(shop, "20240103T000000000000-00000", [(broken, identity, "ok", None)])
    told = command.json(*arguments(shop, coca))
    assert told["captioned"] == 6
    assert sum(told["failed"].values()) == 4
    reasons = {reason[:20]: images for reason, images in told["failed"].items()}
    assert reasons["has changed since th"] == 2
    assert reasons["cannot be read: No s"] == 1
    assert len(told["failed"]) == 3
    said = command(*arguments(shop, coca)).out
    assert "2 not captioned: has changed since the run that saw it" in said
    for file, data in kept.items():
        file.write_bytes(data)
    assert command.json(*arguments(shop, coca))["captioned"] == 3
    assert captions_of(shop) == expected(coca, files[:9])


def test_another_model_takes_over_when_it_has_said_as_much(
    command: Command,  # noqa: F811
    shop: Store,
    coca: str,
    tmp_path: Path,
) -> None:
    other = write_coca(tmp_path / "other", seed=1)
    command.json(*arguments(shop, coca))
    first = captions_of(shop)
    some = command.json(*arguments(shop, other, "--limit", "4"))
    assert (some["captioned"], some["in_force"]) == (4, False)
    assert captions_of(shop) == first
    assert status(shop).caption_model == coca
    rest = command.json(*arguments(shop, other))
    assert (rest["captioned"], rest["known"], rest["in_force"]) == (5, 4, True)
    assert captions_of(shop) == expected(other, photos(shop)[:9]) != first
    back = command.json(*arguments(shop, coca))
    assert (back["captioned"], back["in_force"]) == (0, True)
    assert captions_of(shop) == first


def test_a_model_that_writes_no_word_leaves_empty_captions_with_a_note(
    command: Command,  # noqa: F811
    shop: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mute = write_coca(tmp_path / "mute", always=0)
    told = command.json(*arguments(shop, mute))
    assert (told["captioned"], told["empty"]) == (9, 9)
    rows = shop.read(told["table"], ["caption", "note"])
    assert rows.unique().rows() == [("", "nothing written")]
    assert captions_of(shop) == {}
    assert status(shop).captioned == 0
    loading_fails(monkeypatch)
    assert command.json(*arguments(shop, mute))["nothing_new"]


def test_sampled_captions_have_a_table_of_their_own(
    command: Command,  # noqa: F811
    shop: Store,
    coca: str,
) -> None:
    greedy = command.json(*arguments(shop, coca))
    first = captions_of(shop)
    drawn = command.json(*arguments(shop, coca, "--seed", "0"))
    assert drawn["captioned"] == 9 and drawn["table"] != greedy["table"]
    assert captions_of(shop) != first
    assert command.json(*arguments(shop, coca, "--seed", "0")) == {"nothing_new": True, "known": 9}


def test_exports_tell_captions_once_there_are_any(
    command: Command,  # noqa: F811
    shop: Store,
    coca: str,
    tmp_path: Path,
) -> None:
    export(shop, tmp_path / "before.parquet", "parquet")
    assert "caption" not in pl.read_parquet(tmp_path / "before.parquet").columns
    command.json(*arguments(shop, coca, "--limit", "8"))
    export(shop, tmp_path / "after.parquet", "parquet")
    rows = pl.read_parquet(tmp_path / "after.parquet")
    assert rows.drop("caption").equals(pl.read_parquet(tmp_path / "before.parquet"))
    whole = expected(coca, photos(shop)[:8])
    assert rows["caption"].to_list() == [whole.get(i) for i in rows["image_id"]]
    assert rows["caption"].null_count() == 1  # the ninth; the twin has its own
    found = status(shop)
    assert (found.captioned, found.caption_model) == (8, coca)


def test_small_parts_are_merged_and_damage_is_made_again(
    command: Command,  # noqa: F811
    shop: Store,
    coca: str,
) -> None:
    each = ("--set", "caption.commit_seconds=0")
    table = command.json(*arguments(shop, coca, *each))["table"]
    whole = captions_of(shop)
    assert [shop.rows(table, part) for part in shop.parts(table)] == [4, 4, 1]
    compact(shop, part_rows=8)
    assert [shop.rows(table, part) for part in shop.parts(table)] == [8, 1]
    assert captions_of(shop) == whole
    [large, _] = shop.parts(table)
    file = Path(shop.location) / table / f"{large}.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 8
    file.write_bytes(data)
    (Path(shop.location) / "captions/current.json").write_text("{}")
    assert "pseudolabel caption" in command(*arguments(shop, coca)).err
    faults = {fault.file for fault in verify(shop, now=NOON).faults}
    assert faults == {f"{table}/{large}.parquet", "captions/current.json"}
    assert captions_of(shop) == {}
    told = command.json(*arguments(shop, coca, *each, "--set", "run.compact_after=2"))
    assert (told["captioned"], told["known"]) == (8, 1)
    assert captions_of(shop) == whole
    assert len(shop.parts(table)) == 1  # 1, 4 and 4 were more than two


def test_killed_at_any_moment_it_goes_on_where_it_was(
    shop: Store, coca: str, tmp_path: Path
) -> None:
    """Kill -9 while parts are written; nothing that was committed is written of again."""
    each = ("--set", "caption.commit_seconds=0", "--json")
    with warm_runs(tmp_path) as runs:
        seen: dict[str, tuple[object, ...]] = {}
        rows = pl.DataFrame()
        for count in (1, 5):
            started = runs.start(*arguments(shop, coca, *each, "--batch-size", "1"))
            while len(rows) < count:
                run = current_captions(shop)
                rows = shop.read(run.table) if run else rows
            os.killpg(started, signal.SIGKILL)
            assert runs.end(0).code in (-signal.SIGKILL, 0)
            rows = shop.read(run.table) if run else rows
            now = {row[0]: row for row in rows.iter_rows()}
            assert len(now) == len(rows)
            assert now | seen == now
            seen = now
        assert runs.run(*arguments(shop, coca, *each)).code == 0
    assert run is not None and not len(uncaptioned(shop, run.table))
    assert captions_of(shop) == expected(coca, photos(shop)[:9])


def test_what_is_wrong_is_told_in_a_line(
    command: Command,  # noqa: F811
    shop: Store,
    coca: str,
    tmp_path: Path,
) -> None:
    make_store(tmp_path / "empty", {})
    for more, says in (
        (("--store", "nowhere"), "nowhere: no store here"),
        (("--store", str(tmp_path / "empty")), "holds no images yet"),
        (("--store", shop.location, "--model", "ViT-B-32/openai"), "writes no captions"),
        (("--store", shop.location, "--model", coca, "--batch-size", "0"), "caption.batch_size"),
    ):
        result = command("caption", *more, "--plain")
        assert result.code == 2
        assert says in result.err
        assert "Traceback" not in result.err


def test_memory_that_runs_out_halves_the_batch(
    command: Command,  # noqa: F811
    shop: Store,
    coca: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generate = open_clip.CoCa.generate

    def small(self: open_clip.CoCa, image: torch.Tensor, **how: object) -> torch.Tensor:
        if len(image) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        pieces: torch.Tensor = generate(self, image, **how)
        return pieces

    monkeypatch.setattr(open_clip.CoCa, "generate", small)
    assert command.json(*arguments(shop, coca))["captioned"] == 9
    assert captions_of(shop) == expected(coca, photos(shop)[:9])


def test_through_prefect_the_rows_are_the_same(
    prefect_demo: DemoRun, shop: Store, coca: str
) -> None:
    home = str(prefect_demo.folder / "prefect-home")
    asked = [a for a in arguments(shop, coca, "--json") if a != "--plain"]
    run = pseudolabel(*asked, PREFECT_HOME=home)
    assert run.returncode == 0, run.stderr
    assert captions_of(shop) == expected(coca, photos(shop)[:9])
