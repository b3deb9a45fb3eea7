"""Splits of frames made by hand and of a store that grows: on which side an image stands."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from pipeline.arrays import Floats, unit_rows
from pipeline.errors import InputError
from pipeline.images.paths import folder_of, member_text
from pipeline.opening import create_store
from pipeline.search.index import update_index
from pipeline.store import Store
from pipeline.tables import FILES, embeddings
from pipeline.training.policies import HELD_OUT
from pipeline.training.selection import TABLE, is_current, select
from pipeline.training.splits import by_crowd, by_folder, split, split_of
from tests.helpers import (
    IDENTITY,
    NOON,
    RULES,
    SELECTED,
    axis,
    embedding_rows,
    label_set,
    label_store,
)

CLASSES = label_set("dog", "cat", "car", "cup")


def sides(frame: pl.DataFrame, known: tuple[str, ...] = (), share: float = 0.3) -> dict[str, str]:
    found = split(frame, known=known, valid_share=share)
    assert found["image_id"].to_list() == frame["image_id"].to_list()
    return dict(found.select("image_id", "split").iter_rows())


def grouped(*rows: tuple[str, str, int | None]) -> pl.DataFrame:
    schema = {"image_id": pl.String, "split_group": pl.String, "crowd": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_a_split_comes_near_its_share(share: float) -> None:
    held = sum(split_of(f"{number:032x}", share) == "valid" for number in range(10_000))
    assert held == pytest.approx(10_000 * share, abs=4 * (10_000 * share * (1 - share)) ** 0.5)


def test_a_group_keeps_its_side_for_ever() -> None:
    # SHA-256 of "split:a" begins with 487b6b97, that of "split:c" with 038de6e0 (sha256sum):
    # 0.28313 and 0.01388 of the way from 00000000 to ffffffff.
    assert [split_of("a", 0.283), split_of("a", 0.284)] == ["train", "valid"]
    assert [split_of("c", 0.013), split_of("c", 0.014)] == ["train", "valid"]
    ids = [f"{number:032x}" for number in range(500)]
    small, large = ({i for i in ids if split_of(i, s) == "valid"} for s in (0.1, 0.3))
    assert small < large  # a larger share only adds


def test_a_side_is_that_of_the_group_not_of_the_image() -> None:
    rows = grouped(("a", "c", 0), ("b", "a", 1), ("c", "c", 0))
    assert sides(rows, share=0.2) == {"a": "valid", "b": "train", "c": "valid"}


def test_images_with_a_truth_are_for_testing_and_their_group_with_them() -> None:
    rows = grouped(("a", "a", 0), ("b", "a", 0), ("c", "c", None), ("d", "d", None), ("e", "a", 0))
    assert sides(rows, ("b",), 0.2) == {
        "a": "test",
        "b": "test",
        "c": "valid",
        "d": split_of("d", 0.2),
        "e": "test",
    }
    assert "test" not in sides(rows).values()


def test_a_twin_in_another_folder_is_for_testing_too_but_not_its_folder() -> None:
    rows = grouped(("a", "/x", 7), ("b", "/y", 7), ("c", "/y", 8), ("d", "/z", None))
    found = sides(rows, ("a",))
    assert (found["a"], found["b"]) == ("test", "test")
    assert found["c"] == split_of("/y", 0.3)
    assert found["d"] == split_of("/z", 0.3)  # that it has no crowd makes it nobody's twin


def test_where_most_have_a_truth_a_fifth_of_the_groups_is_for_testing() -> None:
    ids = [f"{number:04d}" for number in range(2000)]
    rows = grouped(*((name, f"g{int(name) // 2}", None) for name in ids))
    found = sides(rows, tuple(ids))
    test = [name for name in ids if found[name] == "test"]
    assert len(test) == pytest.approx(400, abs=2 * 4 * (1000 * 0.2 * 0.8) ** 0.5)
    for even, odd in zip(ids[::2], ids[1::2], strict=True):
        assert found[even] == found[odd]
    # Half is not most; and who is held out does not hang on who is for validation.
    half = sides(rows, tuple(ids[:1000]))
    assert {half[name] for name in ids[:1000]} == {"test"}
    assert "test" not in {half[name] for name in ids[1000:]}
    valid = sum(split_of(f"g{int(name) // 2}", 0.3) == "valid" for name in test)
    assert valid == pytest.approx(0.3 * len(test), abs=0.1 * len(test))


def test_few_groups_still_leave_one_to_test_on() -> None:
    for names in ("abc", "def", "ghi", "jkl"):
        rows = grouped(*((name, name, None) for name in names))
        assert 0 < list(sides(rows, tuple(names)).values()).count("test") < 3


def test_a_crowd_is_named_after_its_oldest_image_be_it_gone() -> None:
    hours = {"a": 3, "b": 1, "c": 2, "d": 2, "gone": 0}
    ages = pl.DataFrame(
        {"image_id": list(hours), "mtime": [NOON + timedelta(hours=h) for h in hours.values()]}
    )
    crowds = pl.DataFrame({"image_id": ["a", "b", "d", "c", "gone"], "crowd": [0, 0, 1, 1, 0]})
    present = pl.DataFrame({"image_id": ["d", "a", "c", "b", "unknown"]})
    named = by_crowd(present, crowds, ages)
    assert list(named.select("image_id", "split_group").iter_rows()) == [
        ("d", "c"),  # as old as c: the smaller id names them
        ("a", "gone"),
        ("c", "c"),
        ("b", "gone"),
        ("unknown", "unknown"),
    ]


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("/photos/a/b.jpg", "/photos/a"),
        ("s3://bucket/photos/c.jpg", "s3://bucket/photos"),
        (member_text("a/b.jpg", "/shards/0.tar"), "tar://a::/shards/0.tar"),
        (member_text("b.jpg", "s3://bucket/0.tar"), "tar://::s3://bucket/0.tar"),
        (member_text("a::b/c.jpg", "/0.tar"), "tar-uri://a%3A%3Ab::/0.tar"),
    ],
)
def test_the_folder_of_a_path_of_any_kind(path: str, folder: str) -> None:
    assert folder_of(path) == folder
    assert by_folder(pl.DataFrame({"path": [path]}))["split_group"].to_list() == [folder]


# -- a store ---------------------------------------------------------------------------------------


def arrive(
    store: Store, drop: int, vectors: Floats, folder: str = "/in", old: int = 0
) -> list[str]:
    """Have images come in a drop of its own, the files a day newer than those of the drop before.

    Their ids are as hashes are: in no order.
    """
    rng = np.random.default_rng([drop, len(vectors)])
    ids = [rng.bytes(16).hex() for _ in vectors]
    when: datetime = NOON + timedelta(days=drop - old)
    part = f"2024010{drop}T000000000000-00000"
    rows = [
        {"path": f"{folder}/{i}.png", "source": folder, "image_id": i, "status": "ok"} for i in ids
    ]
    about = {"bytes": 1, "mtime": when, "run_id": str(drop), "seen_at": NOON}
    table = pa.Table.from_pylist([row | about for row in rows], FILES)
    store.write_part("files", part, table)
    store.write_part("embeddings", part, embedding_rows(ids, list(vectors)))
    label_store(store, CLASSES)
    update_index(store)
    return ids


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = create_store(str(tmp_path / "store"))
    opened.claim(IDENTITY)
    return opened


def crowded(count: int, seed: int) -> Floats:
    """Make 40 crowds in 4 dimensions, near enough to one another for some to touch."""
    centres = np.random.default_rng(0).normal(size=(40, 4))
    rng = np.random.default_rng(seed)
    return unit_rows(centres[rng.integers(40, size=count)] + rng.normal(size=(count, 4)) * 0.05)


def chosen(store: Store) -> pl.DataFrame:
    return store.read(TABLE).sort("image_id")


@pytest.mark.parametrize("bar", [0.0, 0.6])
def test_no_near_duplicates_stand_on_two_sides(store: Store, bar: float) -> None:
    vectors = crowded(300, seed=1)
    ids = arrive(store, 1, vectors)
    truth = Path(store.location).with_name("truth.csv")
    truth.write_text("image_id,label\n" + "".join(f"{name},dog\n" for name in ids[:9]))
    rules = replace(RULES, min_confidence=bar)
    settings = replace(SELECTED, rules=rules, truth=str(truth))
    summary = select(store, settings)
    rows = chosen(store)
    assert rows["split"].null_count() == rows["split_group"].null_count() == 0
    found = dict(rows.select("image_id", "split").iter_rows())
    near = np.argwhere(vectors.astype(np.float16).astype(np.float32) @ vectors.T >= 0.9705)
    for one, other in near:
        assert found[ids[one]] == found[ids[other]]
    assert {found[name] for name in ids[:9]} == {"test"}
    told = rows.filter(split="test")
    assert set(told["reason"]) == {HELD_OUT}
    assert (summary.test, summary.left_out[HELD_OUT]) == (len(told), len(told))
    assert len(told) > 9
    assert (summary.train > 0, summary.valid > 0) == (True, True)
    assert summary.train + summary.valid == summary.kept == rows["kept"].sum()
    assert set(rows.filter("kept")["split"]) == {"train", "valid"}


def test_later_drops_leave_every_image_where_it_is(store: Store) -> None:
    # Crowds far apart, so that none grow into one: whatever joins, the names stay.
    centres = unit_rows(np.random.default_rng(0).normal(size=(40, 4)))
    far = [row for n, row in enumerate(centres) if not (centres[:n] @ row > 0.9).any()]
    before: dict[str, str] = {}
    rng = np.random.default_rng(3)
    for drop in range(1, 6):
        near = unit_rows(np.repeat(far, 2, axis=0) + rng.normal(size=(2 * len(far), 4)) * 0.01)
        arrive(store, drop, near)
        select(store, SELECTED)
        now = dict(chosen(store).select("image_id", "split").iter_rows())
        assert before.items() <= now.items()
        before = now
    assert len(before) == 10 * len(far)
    assert chosen(store)["split_group"].n_unique() == len(far) > 10
    assert set(before.values()) == {"train", "valid"}


def test_older_files_may_give_a_crowd_another_name(store: Store) -> None:
    [first] = arrive(store, 1, axis(0)[None])
    select(store, SELECTED)
    assert chosen(store)["split_group"].to_list() == [first]
    [older] = arrive(store, 2, axis(0)[None], old=9)
    select(store, SELECTED)
    assert set(chosen(store)["split_group"]) == {older}


def test_a_file_that_is_touched_later_stays_the_oldest(store: Store) -> None:
    [first] = arrive(store, 1, axis(0)[None])
    arrive(store, 2, axis(0)[None])
    rows = store.read("files").filter(image_id=first)
    touched = rows.with_columns(mtime=pl.lit(NOON + timedelta(days=9)).cast(rows["mtime"].dtype))
    store.write_part("files", "20240103T000000000000-scan", touched.to_arrow().cast(FILES))
    select(store, SELECTED)
    assert set(chosen(store)["split_group"]) == {first}


def test_the_order_of_drops_and_of_rows_does_not_matter(tmp_path: Path) -> None:
    found = []
    for name, order in (("one", (1, 2, 3)), ("other", (3, 1, 2))):
        opened = create_store(str(tmp_path / name))
        opened.claim(IDENTITY)
        for drop in order:
            arrive(opened, drop, crowded(40, seed=drop))
        select(opened, SELECTED)
        found.append(chosen(opened))
    assert found[0].equals(found[1])


def test_by_folder_its_images_stay_together(store: Store) -> None:
    names = {drop: arrive(store, drop, crowded(30, drop), f"/in/{drop}") for drop in range(1, 9)}
    settings = replace(SELECTED, split_by="folder", valid_share=0.5)
    select(store, settings)
    found = dict(chosen(store).select("image_id", "split").iter_rows())
    for drop, ids in names.items():
        assert {found[name] for name in ids} == {split_of(f"/in/{drop}", 0.5)}
    assert set(found.values()) == {"train", "valid"}


def test_a_truth_that_changes_makes_the_selection_stale_and_one_that_went_is_told(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, *_ = arrive(store, 1, crowded(30, seed=1))
    truth = tmp_path / "truth.csv"
    truth.write_text(f"image_id,label\n{one},dog\n")
    settings = replace(SELECTED, truth=str(truth))
    select(store, SELECTED)
    assert not is_current(store, settings)
    select(store, settings)
    assert is_current(store, settings)
    assert not is_current(store, SELECTED)
    monkeypatch.chdir(tmp_path)  # the same file, said in another way
    assert is_current(store, replace(SELECTED, truth="truth.csv"))
    truth.write_text(f"image_id,label\n{other},dog\n")
    assert not is_current(store, settings)
    select(store, settings)
    assert chosen(store).filter(image_id=other)["split"].to_list() == ["test"]
    truth.unlink()
    for call in (is_current, select):
        with pytest.raises(InputError, match=rf"truth {truth}: no such file or folder"):
            call(store, settings)
    truth.write_text("image_id,label\nunknown,dog\n")
    with pytest.raises(InputError, match="none of its labels belongs to an image"):
        select(store, settings)


def test_of_twins_about_as_sure_the_larger_one_is_kept_and_named(store: Store) -> None:
    near = unit_rows(np.array([[1, 0.01, 0, 0], [1, 0, 0, 0], [0.02, 0, 1, 0]]))
    ids = arrive(store, 1, near.astype(np.float32))
    select(store, SELECTED)  # all of 4 x 3 pixels: the surest stands for both
    [surer] = chosen(store).filter("kept", pl.col("image_id").is_in(ids[:2]))["image_id"]
    rows = store.read("embeddings")
    wide = pl.when(pl.col("image_id") == ids[0]).then(40).otherwise(4).cast(pl.Int32)
    [part] = store.parts("embeddings")
    table = rows.with_columns(width=wide).to_arrow().cast(embeddings(4))
    store.write_part("embeddings", part, table)
    select(store, SELECTED)
    told = {row["image_id"]: row for row in chosen(store).iter_rows(named=True)}
    assert surer == ids[1]
    assert told[ids[0]]["kept"] and told[ids[2]]["kept"]
    assert told[ids[1]]["reason"] == f"near-duplicate of {ids[0]}"
    assert told[ids[1]]["duplicate_group"] == told[ids[0]]["duplicate_group"] == ids[0]
