"""Sources in a bucket: an S3 server in a process of its own, and what goes wrong on the way."""

import io
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.fs
import pytest

from pipeline.errors import InputError, StorageError
from pipeline.images import objects
from pipeline.images.decoding import Refusal
from pipeline.images.reading import Side, Waiting, read_bytes, read_planned, read_side
from pipeline.images.scan import (
    Changes,
    discard_plans,
    find_changes,
    finish_tars,
    record_changes,
)
from pipeline.images.sources import LISTING, list_sources, list_tars
from pipeline.opening import create_store
from pipeline.remote import connect
from pipeline.store import Store
from tests.s3 import S3, Fault
from tests.test_tars import names, observe, rows_of, states

NOW = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reach each test's bucket anew, without the pauses of a user's run."""
    objects._connected.cache_clear()
    monkeypatch.setattr(objects, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(objects, "connect", lambda url: connect(url, attempts=1, timeout=2))
    yield
    objects._connected.cache_clear()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(str(tmp_path / "store"))


def put(s3: S3, content: dict[str, bytes]) -> None:
    filesystem, bucket = connect(s3.url())
    for key, data in content.items():
        with filesystem.open_output_stream(f"{bucket}/{key}") as stream:
            stream.write(data)


def packed(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def look(store: Store, *sources: str) -> Changes:
    return find_changes(store, sources, settle_seconds=10**6, now=NOW)


def take(store: Store, run: str, *sources: str, fails: str = "") -> Changes:
    changes = look(store, *sources)
    for shard in range(record_changes(store, changes, run_id=run, now=NOW, shard_rows=100).shards):
        observe(store, run, shard, fails)
    finish_tars(store, run)
    discard_plans(store)
    return changes


KEYS = ["a.jpg", "deep/er/b.jpg", "a b.jpg", "100%25.jpg", "q?#.jpg", "猫.jpg", "x::y.jpg"]


def test_every_object_below_a_prefix_is_a_row(s3: S3) -> None:
    put(s3, {f"p/{key}": b"data" for key in KEYS} | {"p2/no.jpg": b"1", "p/.h.jpg": b"1"})
    put(s3, {"p/.dark/no.jpg": b"1"})
    for source in (s3.url("p"), s3.url("p/")):
        listing = list_sources((source,))
        assert listing.columns == list(LISTING)
        assert listing["path"].to_list() == sorted(s3.url(f"p/{key}") for key in KEYS)
        assert set(listing["source"]) == {s3.url("p")}
        assert set(listing["bytes"]) == {4}
        assert listing["mtime"].dt.date().unique().to_list() == [datetime.now(UTC).date()]
    assert [read_bytes(path) for path in listing["path"]] == [b"data"] * len(KEYS)


def test_a_bucket_a_prefix_and_a_folder_together(s3: S3, tmp_path: Path) -> None:
    put(s3, {"p/a.jpg": b"1", "b.jpg": b"2"})
    (tmp_path / "c.jpg").touch()
    rows = list_sources((s3.url("p"), str(tmp_path), s3.url())).select("path", "source").rows()
    assert rows == [
        (f"{tmp_path}/c.jpg", str(tmp_path)),
        (s3.url("b.jpg"), s3.url()),
        (s3.url("p/a.jpg"), s3.url("p")),
    ]


def test_what_cannot_be_listed_is_named_and_nothing_is_gone(s3: S3, store: Store) -> None:
    put(s3, {"p/a.jpg": b"1"})
    take(store, "r1", s3.url("p"))
    for source, says in (
        (s3.url("nowhere"), "nothing there"),
        (s3.url("p/a.jpg"), "is a file; name the prefix"),
        ("s3://no-such-bucket/p", "s3://no-such-bucket: no such bucket"),
    ):
        with pytest.raises(InputError, match=says):
            look(store, s3.url("p"), source)
    s3.proxy.fail(Fault(contains="list-type=2", times=99, status=503, code="SlowDown"))
    with pytest.raises(StorageError, match=rf"{s3.url('p')}: cannot be listed: failed after 3"):
        look(store, s3.url("p"))


def test_a_listing_that_stumbles_once_is_whole(s3: S3) -> None:
    put(s3, {"p/a.jpg": b"1"})
    connect(s3.url())
    objects.locate(s3.url())
    fault = s3.proxy.fail(Fault(contains="list-type=2", times=2, status=503, code="SlowDown"))
    assert len(list_sources((s3.url("p"),))) == 1
    assert len(fault.seen) == 2


def test_a_store_inside_a_bucket_s_source_is_left_out_and_is_none(s3: S3) -> None:
    put(s3, {"a.jpg": b"1", "store/sheet.png": b"1", "store2/b.jpg": b"2"})
    listing = list_sources((s3.url(),), leave_out=s3.url("store") + "/")
    assert names(listing) == ["a.jpg", "b.jpg"]
    with pytest.raises(InputError, match="store: lies in the store itself"):
        list_sources((s3.url("store"),), leave_out=s3.url("store"))


def test_objects_come_change_and_go(s3: S3, store: Store) -> None:
    put(s3, {"p/a.jpg": b"1", "p/b.jpg": b"2", "q/c.jpg": b"3"})
    found = take(store, "r1", s3.url("p"), s3.url("q"))
    assert (names(found.to_read), found.waiting) == (
        ["a.jpg", "b.jpg", "c.jpg"],
        0,
    )  # young, but whole
    assert not look(store, s3.url("p"), s3.url("q")).any
    filesystem, bucket = connect(s3.url())
    filesystem.delete_file(f"{bucket}/p/a.jpg")
    filesystem.delete_file(f"{bucket}/q/c.jpg")
    put(s3, {"p/b.jpg": b"22"})
    found = look(store, s3.url("p"))
    assert (names(found.gone), names(found.to_read), found.changed) == (["a.jpg"], ["b.jpg"], 1)


def test_an_object_is_read_or_waits_or_says_why_not(s3: S3, store: Store) -> None:
    put(s3, {"p/a.jpg": b"1", "p/b.jpg": b"2", "p/c.jpg": b"3", "p/notes": b"no image" * 99})
    rows = rows_of(store, s3.url("p"))
    put(s3, {"p/b.jpg": b"longer"})
    filesystem, bucket = connect(s3.url())
    filesystem.delete_file(f"{bucket}/p/c.jpg")
    s3.proxy.requests.clear()
    assert read_planned(rows["notes"]) == Refusal("ignored", "not an image")
    assert read_planned(rows["a.jpg"]) == b"1"
    assert read_planned(rows["b.jpg"]) == Waiting("is not of the size that was listed")
    assert read_planned(rows["c.jpg"]) == Waiting("went away or changed since it was listed")
    s3.proxy.fail(Fault(contains="a.jpg", times=1, status=503, code="SlowDown"))
    assert read_planned(rows["a.jpg"]) == b"1"
    s3.proxy.fail(Fault(contains="a.jpg", times=99, status=503, code="SlowDown"))
    refused = read_planned(rows["a.jpg"])
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.reason[:26]) == ("unreadable", "not fetched after 3 attemp")


def test_an_object_that_was_not_fetched_is_tried_again(s3: S3, store: Store) -> None:
    put(s3, {"p/a.jpg": b"1", "p/b.jpg": b"2"})
    take(store, "r1", s3.url("p"), fails="b.jpg")
    assert names(look(store, s3.url("p")).to_read) == ["b.jpg"]


# -- tars --------------------------------------------------------------------------------------


def test_tars_in_a_bucket_by_name_glob_and_braces(s3: S3) -> None:
    tar = packed({})
    put(s3, {f"s/{name}.tar": tar for name in ("00", "01", "10", "deep/00", ".hidden")})
    for source, found in (
        ("s/00.tar", ["00"]),
        ("s/0*.tar", ["00", "01"]),
        ("s/{00..10}.tar", ["00", "01", "10"]),
        ("s/**/00.tar", ["00", "deep/00"]),
        ("*/*.tar", ["00", "01", "10"]),
    ):
        listing = list_tars((s3.url(source),))
        assert listing["path"].to_list() == [s3.url(f"s/{name}.tar") for name in found]
    for source, says in (("{50..60}.tar", "no such file"), ("9*.tar", "matches no .tar")):
        with pytest.raises(InputError, match=says):
            list_tars((s3.url(f"s/{source}"),))


def test_a_listing_that_is_refused_is_a_mistake_and_one_that_dies_is_not(s3: S3) -> None:
    put(s3, {"p/a.jpg": b"1"})
    objects.locate(s3.url("p"))  # connected; what follows happens while it is listed
    for status, code, error in (
        (403, "AccessDenied", InputError),
        (400, "InvalidParameterValue", InputError),
        (500, "InternalError", StorageError),
        (503, "SlowDown", StorageError),
    ):
        fault = s3.proxy.fail(Fault(contains="list-type=2", times=99, status=status, code=code))
        with pytest.raises(error, match="cannot be listed"):
            list_sources((s3.url("p"),))
        fault.times = 0


def test_members_of_a_tar_in_a_bucket_are_read_in_place(s3: S3, store: Store) -> None:
    members = {"a.jpg": b"1" * 5000, "a.txt": b"red", "b.png": b"2" * 9000}
    put(s3, {"s/0.tar": packed(members)})
    rows = rows_of(store, s3.url("s/*.tar"))
    assert {name: read_planned(row) for name, row in rows.items()} == {
        name: members[name] for name in ("a.jpg", "b.png")
    }
    assert rows["a.jpg"].path == f"tar://a.jpg::{s3.url('s/0.tar')}"
    assert read_bytes(rows["b.png"].path) == members["b.png"]
    assert read_side(rows["a.jpg"]) == Side("red", None, None)


def test_a_tar_replaced_since_the_listing_makes_its_members_wait(
    s3: S3, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(s3, {"s/0.tar": packed({"a.jpg": b"1" * 600})})
    row = rows_of(store, s3.url("s/*.tar"))["a.jpg"]
    later = datetime.now(UTC) + timedelta(seconds=5)
    info = pyarrow.fs.FileInfo("x", pyarrow.fs.FileType.File, mtime=later, size=1)

    class Later:
        def get_file_info(self, path: str) -> pyarrow.fs.FileInfo:
            return info

    monkeypatch.setattr(objects, "locate", lambda url: (Later(), url))
    assert read_planned(row) == Waiting("went away or changed since it was listed")


def test_tars_in_a_bucket_drop_after_drop(s3: S3, store: Store) -> None:
    put(s3, {"s/0.tar": packed({"a.jpg": b"1"}), "s/1.tar": packed({"b.jpg": b"2"})})
    source = s3.url("s/*.tar")
    assert names(take(store, "r1", source).to_read) == ["a.jpg", "b.jpg"]
    s3.proxy.requests.clear()
    assert not look(store, source).any
    assert [r for r in s3.proxy.requests if ".tar" in r.partition("?")[0]] == []  # not opened
    filesystem, bucket = connect(s3.url())
    filesystem.delete_file(f"{bucket}/s/0.tar")
    put(s3, {"s/1.tar": packed({"c.jpg": b"3" * 20_000})})
    take(store, "r2", source)
    assert states(store) == {
        "0.tar": "gone", "a.jpg": "gone", "1.tar": "shard", "b.jpg": "gone", "c.jpg": "ok",
    }  # fmt: skip


def test_a_tar_that_does_not_arrive_is_tried_by_the_next_run_and_loses_nothing(
    s3: S3, store: Store
) -> None:
    put(s3, {"s/0.tar": packed({"a.jpg": b"1"})})
    source = s3.url("s/*.tar")
    take(store, "r1", source)
    put(s3, {"s/0.tar": packed({"a.jpg": b"1", "b.jpg": b"2" * 20_000})})
    s3.proxy.fail(Fault(contains="0.tar", times=99, status=503, code="SlowDown"))
    take(store, "r2", source)
    assert states(store) == {"0.tar": "unreadable", "a.jpg": "ok"}
    s3.proxy.faults.clear()
    assert names(take(store, "r3", source).to_read) == ["a.jpg", "b.jpg"]
    assert states(store) == {"0.tar": "shard", "a.jpg": "ok", "b.jpg": "ok"}


def test_memory_storage_of_fsspec_is_a_source_like_any_other(store: Store) -> None:
    import fsspec  # type: ignore[import-untyped]

    memory = fsspec.filesystem("memory")
    memory.pipe({"/photos/in/a.jpg": b"1", "/photos/in/deep/b.jpg": b"22"})
    try:
        found = take(store, "r1", "memory://photos/in")
        assert found.to_read["path"].to_list() == [
            "memory://photos/in/a.jpg",
            "memory://photos/in/deep/b.jpg",
        ]
        assert [read_bytes(path) for path in found.to_read["path"]] == [b"1", b"22"]
        assert not look(store, "memory://photos/in").any
    finally:
        memory.rm("/photos", recursive=True)
