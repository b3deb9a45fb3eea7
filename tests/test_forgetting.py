"""Sources that are forgotten: which files go, by hand, and what is left to come back."""

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import InputError
from pipeline.images.forgetting import REASON, find_forgotten, forget
from pipeline.locking import writer_lock
from pipeline.opening import create_store, open_store
from pipeline.store import Store
from pipeline.tables import FILES
from tests.conftest import DATA, demo_config, run_plain
from tests.helpers import NOON
from tests.test_cli import Command, command  # noqa: F401 - a fixture
from tests.test_tars import date, look, names, states, take, write_tar

FIRST = "20240401T000000000000"  # a run before NOON


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(str(tmp_path / "store"))


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    date(path, 0)
    return path.parent


def gone(store: Store, source: object, *named: object) -> list[str]:
    found = find_forgotten(store, str(source), tuple(map(str, named)))
    return names(found.rows)


def test_a_source_goes_with_what_lies_in_no_other_that_is_named(
    tmp_path: Path, store: Store
) -> None:
    first, other = put(tmp_path / "in/a.jpg", b"a"), put(tmp_path / "other/o.jpg", b"a")
    within = put(tmp_path / "in/sub/b.jpg", b"b")
    beside = put(tmp_path / "in-2/c.jpg", b"c")
    assert take(store, FIRST, first, other, beside) == 4
    assert gone(store, first, other, beside) == ["a.jpg", "b.jpg"]
    assert gone(store, first, within) == ["a.jpg"]  # what the config has under another name stays
    assert find_forgotten(store, str(first), (str(within),)).kept == 1
    before = states(store)
    found = find_forgotten(store, str(first), (str(other),))
    assert (len(found.rows), found.kept, states(store)) == (2, 0, before)  # only looked for
    forget(store, found, now=NOON + timedelta(days=1))
    assert states(store) == {**before, "a.jpg": "gone", "b.jpg": "gone"}
    last = store.read("files").filter(status="gone")
    assert set(last["reason"]) == {REASON}
    assert last["bytes"].to_list() == [1, 1]
    assert not look(store, other, beside).any
    assert names(look(store, first, other).to_read) == ["a.jpg", "b.jpg"]  # named again: back
    with pytest.raises(InputError, match=rf"holds no file of {first}; its sources are: .*/in-2, "):
        find_forgotten(store, str(first), ())


def test_only_images_without_another_path_are_lost(tmp_path: Path, store: Store) -> None:
    rows = [
        {"path": f"/{path}.jpg", "source": f"/{path[:2]}", "image_id": image, "status": status}
        for path, image, status in (
            ("in/a", "1", "ok"),  # has a copy elsewhere
            ("in/b", "2", "ok"),
            ("in/copy-of-b", "2", "ok"),
            ("in/c", "3", "ok"),  # whose copy is gone already
            ("in/d", None, "unreadable"),
            ("in/e", "4", "gone"),
            ("ot/a", "1", "ok"),
            ("ot/c", "3", "gone"),
        )
    ]
    table = pa.Table.from_pylist(rows, schema=FILES)
    store.write_part("files", FIRST, table)
    found = find_forgotten(store, "/in", ())
    assert names(found.rows) == ["a.jpg", "b.jpg", "c.jpg", "copy-of-b.jpg", "d.jpg"]
    assert found.images == 2  # 2 and 3


def test_tars_go_with_their_members(tmp_path: Path, store: Store) -> None:
    for name in ("0", "1"):
        write_tar(tmp_path / f"in/{name}.tar", {f"{name}.jpg": b"1"})
    pattern = tmp_path / "in/*.tar"
    take(store, FIRST, pattern)
    assert gone(store, pattern) == ["0.jpg", "0.tar", "1.jpg", "1.tar"]
    assert gone(store, pattern, tmp_path / "in/1.tar") == ["0.jpg", "0.tar"]
    assert gone(store, tmp_path / "in/0.tar") == ["0.jpg", "0.tar"]  # one of them, by its name
    assert gone(store, tmp_path / "in/0.tar", pattern) == []
    forget(store, find_forgotten(store, str(pattern), ()), now=NOON + timedelta(days=1))
    assert set(states(store).values()) == {"gone"}
    assert take(store, "20990101T000000000000", pattern) == 2


def test_what_the_config_names_or_nobody_knows_is_refused(tmp_path: Path, store: Store) -> None:
    folder = put(tmp_path / "in/a.jpg", b"a")
    take(store, FIRST, folder)
    for source, named, says in (
        (str(folder), (f"{folder}/",), "the config still names it"),
        (f"{folder}/../in", (str(folder),), "the config still names it"),
        (str(tmp_path / "no"), (), rf"holds no file of {tmp_path}/no; its sources are: {folder}"),
        ("s3://bucket/p/", (), "holds no file of s3://bucket/p;"),
        (" ", (), "is empty"),
    ):
        with pytest.raises(InputError, match=says):
            find_forgotten(store, source, named)


def test_the_command_shows_then_forgets_and_the_next_run_selects_anew(
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    kept, left = DATA / "images/food/kiwi", DATA / "images/food/pear"
    config = demo_config(tmp_path / "store", sources=[str(kept), str(left)])
    run_plain(config)
    at = ("--store", config.store, "--set", f'sources=["{kept}"]')
    told = {"source": str(left), "files": 12, "status": {"ok": 12}, "images": 12, "kept": 0}
    assert command.json("forget", str(left), *at, "--dry-run") == {**told, "forgotten": False}
    assert command.json("status", "--store", config.store)["files"] == {"ok": 24}
    assert "still names it" in command("forget", str(kept), *at).err
    with writer_lock(open_store(config.store)):
        assert command("forget", str(left), *at).code == 3
    shown = command("forget", str(left), *at)
    assert "12 files of" in shown.out, shown.err
    assert command.json("status", "--store", config.store)["files"] == {"gone": 12, "ok": 12}
    assert command("forget", str(left), *at).code == 2
    after = run_plain(config.model_copy(update={"sources": (str(kept),)}))
    assert after.select is not None
    assert after.embed.files == 0
    found = command.json("verify", "--store", config.store)
    assert found["faults"] == []
    assert command.json("export", "all.csv", "--store", config.store)["rows"] == 12
    back = run_plain(config)
    assert (back.scan.new, back.embed.known, back.embed.embedded) == (12, 12, 0)
