"""Tars against Python's own reader of them, and drops of tars made by hand."""

import io
import json
import os
import random
import tarfile
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import polars as pl
import pytest

from pipeline.catalog import current_files
from pipeline.errors import InputError
from pipeline.images.decoding import Refusal
from pipeline.images.paths import member_text, name_of, split_member
from pipeline.images.reading import (
    SIDE_LIMIT,
    Planned,
    Side,
    Waiting,
    planned,
    read_bytes,
    read_planned,
    read_side,
)
from pipeline.images.scan import (
    Changes,
    ScanSummary,
    discard_plans,
    find_changes,
    finish_tars,
    read_shard,
    record_changes,
)
from pipeline.images.shards import matches
from pipeline.images.sources import list_tars
from pipeline.images.tars import index
from pipeline.opening import create_store
from pipeline.store import Store
from pipeline.tables import FILES
from tests.helpers import NOON

LONG = "deep/" * 40 + "long.png"  # more than the 100 bytes that the first tars had room for


def write_tar(
    path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT, hour: int = 0
) -> Path:
    """Write a tar, dated some hours after NOON minus a day; members claim to be of 1970."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    date(path, hour)
    return path


def date(path: Path, hour: int) -> None:
    time = int((NOON - timedelta(days=1)).timestamp() + hour * 3600)
    os.utime(path, (time, time))


def huge(entry: bytes) -> bytes:
    """Turn a member into a long name of more bytes than any file has; the checksum is right."""
    header = bytearray(entry[:512])
    header[156:157] = b"L"
    header[124:136] = b"\x80" + b"\xff" * 11
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + entry[512:]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(str(tmp_path / "store"))


def look(store: Store, *sources: object, settle: float = 0, retry: bool = False) -> Changes:
    names = tuple(map(str, sources))
    return find_changes(store, names, settle_seconds=settle, now=NOON, retry_failed=retry)


def take(store: Store, run: str, *sources: object, fails: str = "", crash: bool = False) -> int:
    """Take a drop as the embed stage does; return how many files it read."""
    changes = look(store, *sources)
    summary = record_changes(store, changes, run_id=run, now=NOON, shard_rows=100)
    for shard in range(summary.shards):
        observe(store, run, shard, fails)
    if not crash:
        finish_tars(store, run)
        discard_plans(store)
    return len(changes.to_read)


def observe(store: Store, run: str, shard: int, fails: str) -> None:
    plan = read_shard(store, run, shard)
    failed = pl.col("path").str.contains(fails, literal=True) & pl.lit(bool(fails))
    rows = plan.with_columns(
        image_id=pl.lit("0" * 32),
        status=pl.when(failed).then(pl.lit("unreadable")).otherwise(pl.lit("ok")),
        reason=pl.when(failed).then(pl.lit("not fetched: 503")),
        run_id=pl.lit(run),
        seen_at=pl.lit(NOON),
    )
    part = rows.select(FILES.names).to_arrow().cast(FILES)
    store.write_part("files", f"{run}-{shard:05d}", part)


def states(store: Store) -> dict[str, str]:
    """Return the status of every file by its own name."""
    rows = current_files(store, ["status"]).select("path", "status").iter_rows()
    return {name_of(path): status for path, status in rows}


def names(frame: pl.DataFrame) -> list[str]:
    return sorted(name_of(path) for path in frame["path"])


def rows_of(store: Store, *sources: object) -> dict[str, Planned]:
    """Return the plan's rows for a drop, by the files' own names."""
    record_changes(store, look(store, *sources), run_id="p", now=NOON, shard_rows=1000)
    return {name_of(row.path): row for row in planned(read_shard(store, "p", 0))}


# -- paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "member",
    [
        "a.jpg",
        "a/b c.jpg",
        "./x.jpg",
        "100%41.jpg",
        "caf\udce9.jpg",
        "a::b.jpg",
        "x:",
        "猫.png",
        "?*",
    ],
)
@pytest.mark.parametrize("tar", ["/p/0.tar", "s3://b/a::b.tar", "file:///p/%FF.tar"])
def test_the_path_of_a_member_leads_back_to_it(member: str, tar: str) -> None:
    text = member_text(member, tar)
    assert text.encode().decode() == text  # UTF-8, as Parquet wants it
    assert split_member(text) == (member, tar)


@pytest.mark.parametrize(
    "member", ["a.jpg", "deep er/b.jpg", "100%41.jpg", "猫 [1]*.png", "./c.jpg"]
)
def test_fsspec_opens_a_member_by_its_path(tmp_path: Path, member: str) -> None:
    tar = write_tar(tmp_path / "x y/0.tar", {"other": b"no", member: b"yes"})
    with fsspec.open(member_text(member, str(tar))) as file:
        assert file.read() == b"yes"


def test_the_own_name_of_a_file_of_any_kind() -> None:
    texts = ["/p/a.jpg", "file:///p/caf%E9.jpg", "s3://b/k/a b.jpg", "tar://d/e.jpg::/p/0.tar"]
    texts.append("tar-uri://d/caf%E9.jpg::/p/0.tar")
    assert list(map(name_of, texts)) == [
        "a.jpg",
        "caf\udce9.jpg",
        "a b.jpg",
        "e.jpg",
        "caf\udce9.jpg",
    ]


# -- which tars a source means -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("in/00.tar", ["00"]),
        ("in/*.tar", ["00", "01", "10", "{a}"]),
        ("in/0?.tar", ["00", "01"]),
        ("in/[!0]*.tar", ["10", "{a}"]),
        ("in/**/*.tar", ["00", "01", "10", "deep", "{a}"]),
        ("in/{00..02}.tar", ["00", "01"]),
        ("in/{0,1}0.tar", ["00", "10"]),
        ("in/{0..1}{0..1}.tar", ["00", "01", "10"]),
        ("in/{a}.tar", ["{a}"]),
    ],
)
def test_names_globs_and_braces_name_tars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, found: list[str]
) -> None:
    for name in ("00", "01", "10", "{a}", "sub/deep", ".hidden", ".dark/x"):
        write_tar(tmp_path / f"in/{name}.tar", {})
    (tmp_path / "in/x[1].tar").mkdir()
    (tmp_path / "in/notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    listing = list_tars((source,)).filter(pl.col("problem").is_null())
    assert [Path(path).stem for path in listing["path"]] == found
    root = f"{tmp_path}/{source}"
    assert set(listing["source"]) <= {root}
    assert all(matches(root, path) for path in listing["path"])
    others = [f"{tmp_path}/in/{name}.tar" for name in (".hidden", "sub/.x", ".dark/x", "sub/9/")]
    assert not any(matches(root, path) for path in others)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("in/no.tar", "in/no.tar: no such file"),
        ("in/{5..9}.tar", "no such file"),
        ("in/x*.tar", r"in/x\*.tar: matches no .tar"),
        ("in/y[1].tar/*.tar", "matches no .tar"),
        ("in/{7..9}*.tar", "matches no .tar"),
        ("nowhere/*.tar", "no such folder: .*nowhere"),
        ("in/a.tar.gz", "in/a.tar.gz: a compressed tar .* unpack it to a plain .tar"),
        ("in/*.tgz", "a compressed tar"),
    ],
)
def test_a_source_that_means_no_tar_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store, source: str, says: str
) -> None:
    write_tar(tmp_path / "in/a.tar", {})
    (tmp_path / "in/y[1].tar").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        look(store, source)


def test_a_folder_may_be_called_like_a_tar_and_a_tar_in_a_folder_is_a_file(
    tmp_path: Path, store: Store
) -> None:
    write_tar(tmp_path / "photos.tar/a.tar", {"x.jpg": b"1"})
    assert names(look(store, tmp_path / "photos.tar").to_read) == ["a.tar"]


def test_a_tar_that_is_a_source_is_no_file_of_the_folder_around_it(
    tmp_path: Path, store: Store
) -> None:
    write_tar(tmp_path / "in/a.tar", {"x.jpg": b"1"})
    sources = (tmp_path / "in", tmp_path / "in/*.tar")
    assert names(look(store, *sources).to_read) == ["x.jpg"]
    take(store, "r1", *sources)
    assert not look(store, *sources).any
    assert states(store) == {"a.tar": "shard", "x.jpg": "ok"}


# -- what is in a tar --------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_member_lies_where_tar_itself_finds_it(
    tmp_path: Path, store: Store, form: int
) -> None:
    content = {
        "a.jpg": b"1",
        LONG: b"22" * 600,
        "caf\udce9.png": b"333",
        "e.gif": b"",
        "z/ü.PNG": b"5",
    }
    tar = write_tar(tmp_path / "0.tar", content, form)
    rows = rows_of(store, tar)
    found = {split_member(row.path)[0]: read_planned(row) for row in rows.values()}  # type: ignore[index]
    with tarfile.open(tar, encoding="utf-8", errors="surrogateescape") as other:
        assert found == {m.name: other.extractfile(m).read() for m in other}  # type: ignore[union-attr]
    assert found == content
    assert {read_bytes(row.path) for row in rows.values()} == set(content.values())


def test_only_images_are_members_and_hidden_ones_are_left_out(tmp_path: Path, store: Store) -> None:
    members = ["a.jpg", "a.cls", "a.npy", "b.txt", "._c.jpg", ".d/e.jpg", "./f.jpg", "g"]
    tar = write_tar(tmp_path / "0.tar", dict.fromkeys(members, b"x"))
    assert names(look(store, tar).to_read) == ["a.jpg", "f.jpg"]


def test_of_members_with_one_name_the_last_counts(tmp_path: Path, store: Store) -> None:
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": b"old"})
    with tarfile.open(tar, "a") as more:
        entry = tarfile.TarInfo("a.jpg")
        entry.size = 3
        more.addfile(entry, io.BytesIO(b"new"))
    date(tar, 0)
    row = rows_of(store, tar)["a.jpg"]
    assert (read_planned(row), read_bytes(row.path)) == (b"new", b"new")


def test_links_in_a_tar(tmp_path: Path, store: Store) -> None:
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": b"1"})
    with tarfile.open(tar, "w") as file:
        entry = tarfile.TarInfo("a.jpg")
        entry.size = 2
        file.addfile(entry, io.BytesIO(b"hi"))
        for name, kind in (("hard.jpg", tarfile.LNKTYPE), ("soft.jpg", tarfile.SYMTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "a.jpg"
            file.addfile(link)
    date(tar, 0)
    assert names(look(store, tar).problems) == ["soft.jpg"]
    assert read_planned(rows_of(store, tar)["hard.jpg"]) == b"hi"


def test_a_member_s_side_information_is_that_of_its_key(tmp_path: Path, store: Store) -> None:
    about = json.dumps({"caption": "ü"})
    members = {
        "a.txt": "a red ü".encode(),
        "a.jpg": b"1",
        "a.mask.png": b"2",
        "a.json": about.encode(),
        "b.jpg": b"3",
        "sub/a.jpg": b"4",
        "c.png": b"5",
        "c.txt": b"\xff\0!",
    }
    rows = rows_of(store, write_tar(tmp_path / "0.tar", members))
    sides = {row.path.split("::")[0]: read_side(row) for row in rows.values()}
    assert sides["tar://a.mask.png"] == Side("a red ü", about, None)
    assert sides["tar://b.jpg"] is None
    assert sides["tar://c.png"] == Side("��!", None, None)
    assert rows["a.jpg"].text_offset is None  # of sub/a, which has none


def test_side_information_that_is_too_long_is_cut_and_said_so(tmp_path: Path, store: Store) -> None:
    long = "x" + "ü" * (SIDE_LIMIT // 2)  # a letter of two bytes lies across the limit
    members = {"a.jpg": b"1", "a.txt": long.encode(), "a.json": b"1" * (SIDE_LIMIT + 1)}
    side = read_side(rows_of(store, write_tar(tmp_path / "0.tar", members))["a.jpg"])
    assert isinstance(side, Side)
    assert side.text == long[:-1]
    assert side.json is None
    assert side.note == (
        "text of 65537 bytes cut to 65536; JSON of 65537 bytes left out: more than 65536"
    )


# -- drop after drop ---------------------------------------------------------------------------


def test_members_bear_their_tar_s_time_and_path_and_the_tar_comes_last(
    tmp_path: Path, store: Store
) -> None:
    tar = write_tar(tmp_path / "in/0.tar", {"a.jpg": b"123"}, hour=5)
    assert take(store, "r1", tmp_path / "in/*.tar") == 1
    rows = {name_of(row["path"]): row for row in current_files(store).iter_rows(named=True)}
    at = NOON - timedelta(hours=19)
    keys = ("path", "source", "bytes", "mtime", "status", "reason", "run_id")
    member, own = rows["a.jpg"], rows["0.tar"]
    assert [member[k] for k in keys] == [
        f"tar://a.jpg::{tar}", str(tar), 3, at, "ok", None, "r1",
    ]  # fmt: skip
    assert [own[k] for k in keys] == [
        str(tar), f"{tmp_path}/in/*.tar", tar.stat().st_size, at, "shard", None, "r1",
    ]  # fmt: skip
    assert store.parts("files")[-1] == "r1-tars"


def test_a_tar_that_has_not_changed_is_not_opened(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": b"1", "b.jpg": b"2"})
    take(store, "r1", tar)
    monkeypatch.setattr("pipeline.images.tars.index", None)
    found = look(store, tar)
    assert not found.any
    assert (found.listed, found.new, found.waiting) == (2, 0, 0)


def test_all_members_of_a_changed_tar_are_read_again_and_those_left_out_are_gone(
    tmp_path: Path, store: Store
) -> None:
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": b"1", "b.jpg": b"2", "c.jpg": b"3"})
    take(store, "r1", tar)
    stamp = tar.stat()
    write_tar(tar, {"a.jpg": b"1", "c.jpg": b"3", "d.jpg": b"4" * 20_000})
    os.utime(tar, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # only its size tells
    found = look(store, tar)
    assert names(found.to_read) == ["a.jpg", "c.jpg", "d.jpg"]
    assert names(found.gone) == ["b.jpg"]
    assert (found.new, found.changed) == (1, 2)
    take(store, "r2", tar)
    assert states(store) == dict.fromkeys(["a.jpg", "c.jpg", "d.jpg"], "ok") | {
        "0.tar": "shard",
        "b.jpg": "gone",
    }
    assert not look(store, tar).any


@pytest.mark.parametrize("source", ["in/*.tar", "in/{0,1}.tar", "in"])
def test_a_tar_that_went_takes_its_members_along(tmp_path: Path, store: Store, source: str) -> None:
    for name in ("0", "1"):
        write_tar(tmp_path / f"in/{name}.tar", {f"{name}.jpg": b"1"})
    take(store, "r1", tmp_path / "in/*.tar")
    (tmp_path / "in/0.tar").unlink()
    take(store, "r2", tmp_path / source)
    assert states(store) == {"0.tar": "gone", "0.jpg": "gone", "1.tar": "shard", "1.jpg": "ok"}
    write_tar(tmp_path / "in/0.tar", {"0.jpg": b"1"})  # back as it was
    assert names(look(store, tmp_path / "in/*.tar").to_read) == ["0.jpg"]


def test_a_source_taken_out_leaves_its_tars_and_members(tmp_path: Path, store: Store) -> None:
    write_tar(tmp_path / "a/0.tar", {"0.jpg": b"1"})
    write_tar(tmp_path / "b/1.tar", {"1.jpg": b"1"})
    take(store, "r1", tmp_path / "a/*.tar", tmp_path / "b/*.tar")
    (tmp_path / "a/0.tar").unlink()
    assert not look(store, tmp_path / "b/*.tar").any


def test_a_young_tar_waits_whole(tmp_path: Path, store: Store) -> None:
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": b"1", "b.jpg": b"2"})
    take(store, "r1", tar)
    write_tar(tar, {"b.jpg": b"2"}, hour=24)
    found = look(store, tar, settle=60)
    assert (found.any, found.waiting) == (False, 1)
    assert names(look(store, tar).to_read) == ["b.jpg"]


def test_a_crash_before_the_tar_is_recorded_loses_no_member(tmp_path: Path, store: Store) -> None:
    tar = write_tar(tmp_path / "0.tar", {f"{n:03}.jpg": b"1" for n in range(150)})
    record_changes(store, look(store, tar), run_id="r1", now=NOON, shard_rows=100)
    observe(store, "r1", 0, "")  # the second shard is not reached
    assert "0.tar" not in states(store)
    assert take(store, "r2", tar) == 50  # and none is read twice
    assert set(states(store).values()) == {"ok", "shard"}
    assert len(states(store)) == 151


def test_a_tar_with_a_member_that_waits_is_not_recorded(tmp_path: Path, store: Store) -> None:
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", {f"{name}{n:03}.jpg": b"1" for n in range(80)})
    changes = look(store, tmp_path / "*.tar")
    record_changes(store, changes, run_id="r1", now=NOON, shard_rows=100)
    observe(store, "r1", 0, "")  # all of a, and 20 of b
    assert finish_tars(store, "r1") == 1
    assert states(store)["a.tar"] == "shard"
    assert take(store, "r2", tmp_path / "*.tar") == 60


def test_members_whose_vectors_were_lost_are_read_again(tmp_path: Path, store: Store) -> None:
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": b"1", "b.jpg": b"2"})
    take(store, "r1", tar)
    lost = current_files(store).filter(~pl.col("path").str.contains("b.jpg", literal=True))
    rows = lost.with_columns(status=pl.lit("lost")).to_arrow().cast(FILES)
    store.write_part("files", "r2-lost", rows)
    assert names(look(store, tar).to_read) == ["a.jpg"]
    take(store, "r3", tar)
    assert states(store) == {"0.tar": "shard", "a.jpg": "ok", "b.jpg": "ok"}


def test_a_member_that_was_not_fetched_is_tried_again_alone(tmp_path: Path, store: Store) -> None:
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": b"1", "b.jpg": b"2"})
    take(store, "r1", tar, fails="b.jpg")
    assert names(look(store, tar).to_read) == ["b.jpg"]
    take(store, "r2", tar)
    assert not look(store, tar).any


@pytest.mark.parametrize(
    ("damage", "says", "left"),
    [
        (lambda d: d[: 2 * 2560 + 1000], "cut short: ends within 'c.jpg'", ["a.jpg", "b.jpg"]),
        (lambda d: d[: 2 * 2560], "cut short: it has no end mark", ["a.jpg", "b.jpg"]),
        (lambda d: d[: 2 * 2560 + 100], "damaged: no header", ["a.jpg", "b.jpg"]),
        (lambda d: d[:2560] + b"?" * 512 + d[3072:], "damaged: no header", ["a.jpg"]),
        (lambda d: d[:2560] + huge(d[2560:]), "damaged: cannot fit", ["a.jpg"]),
        (lambda d: b"", "damaged: empty file", []),
        (lambda d: b"no tar at all", "damaged: truncated header", []),
        (lambda d: b"\x1f\x8b" + d, "is compressed: unpack it to a plain .tar", []),
    ],
)
def test_of_a_damaged_tar_the_members_before_the_damage_are_read(
    tmp_path: Path, store: Store, damage: Callable[[bytes], bytes], says: str, left: list[str]
) -> None:
    tar = write_tar(tmp_path / "0.tar", {f"{n}.jpg": n.encode() * 2048 for n in "abc"})
    whole = tar.read_bytes()[: 3 * 2560 + 1024]
    tar.write_bytes(damage(whole))
    date(tar, 0)
    found = look(store, tar)
    assert names(found.to_read) == left
    take(store, "r1", tar)
    [own] = current_files(store).filter(pl.col("path") == str(tar)).iter_rows(named=True)
    assert own["status"] == "unreadable"
    assert own["reason"].startswith(says)
    assert not look(store, tar).any
    assert len(look(store, tar, retry=True).tars) == 1
    tar.write_bytes(whole)
    date(tar, 1)
    assert names(look(store, tar).to_read) == ["a.jpg", "b.jpg", "c.jpg"]


def test_members_behind_new_damage_are_not_gone(tmp_path: Path, store: Store) -> None:
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": b"1", "b.jpg": b"2"})
    take(store, "r1", tar)
    tar.write_bytes(tar.read_bytes()[:1024])
    date(tar, 1)
    found = look(store, tar)
    assert (names(found.to_read), len(found.gone)) == (["a.jpg"], 0)


@pytest.mark.timeout(10)
def test_what_stands_where_a_tar_should_is_recorded_once(tmp_path: Path, store: Store) -> None:
    (tmp_path / "0.tar").symlink_to("nowhere")
    os.mkfifo(tmp_path / "1.tar")  # to open it would take for ever
    (tmp_path / "2.tar").mkdir()
    take(store, "r1", tmp_path / "*.tar")
    assert dict(current_files(store, ["reason"]).iter_rows()) == {
        f"{tmp_path}/0.tar": "cannot be opened: No such file or directory",
        f"{tmp_path}/1.tar": "not a regular file",
        f"{tmp_path}/2.tar": "not a regular file",
    }
    assert set(states(store).values()) == {"unreadable"}
    assert not look(store, tmp_path / "*.tar").any


def test_a_tar_of_many_members_takes_little_memory(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "0.tar", {f"{n:05}.jpg": b"" for n in range(5000)})
    tracemalloc.start()
    try:
        assert len(index(str(tar))[0]) == 5000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak / 5000 < 350  # bytes; with what tarfile itself would keep of each it is 550


def test_a_tar_rewritten_after_the_listing_makes_its_members_wait(
    tmp_path: Path, store: Store
) -> None:
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": b"1", "a.txt": b"x"})
    row = rows_of(store, tar)["a.jpg"]
    write_tar(tar, {"b.jpg": b"2"}, hour=1)
    assert isinstance(read_planned(row), Waiting)
    assert isinstance(read_side(row), Waiting)
    tar.unlink()
    assert isinstance(read_planned(row), Waiting)


@pytest.mark.parametrize("seed", range(20))
def test_a_hostile_tar_never_stops_a_run(tmp_path: Path, seed: int) -> None:
    tar = write_tar(tmp_path / "0.tar", {LONG: b"1", "b.jpg": b"2" * 600, "c.jpg": b"3"})
    rng = random.Random(seed)
    data = bytearray(tar.read_bytes())
    for _ in range(60):
        data[rng.randrange(len(data) - 9000)] = rng.randrange(256)
    tar.write_bytes(data)
    places, _ = index(str(tar))
    for place in places.values():
        assert place.problem or place.offset + place.size <= len(data)


def test_a_refusal_names_what_cannot_be_read(tmp_path: Path) -> None:
    row = Planned("tar://a.jpg::/0.tar", 1, 0)
    assert read_planned(row) == Refusal("unreadable", "its place in the tar is not known")


def test_the_summary_counts_the_tars_opened(tmp_path: Path, store: Store) -> None:
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", {f"{name}.jpg": b"1"})
    found = look(store, tmp_path / "*.tar")
    summary = record_changes(store, found, run_id="r1", now=NOON, shard_rows=1)
    expected = ScanSummary("r1", 2, 2, 0, 0, 0, unopenable=0, shards=2, tars=2, bytes=2)
    assert summary == expected


def test_a_tar_that_turns_to_garbage_is_something_to_do(store: Store, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": b"1"})
    take(store, "r1", tar)
    tar.write_bytes(b"\x07" * 5000)
    date(tar, 1)
    found = look(store, tar)
    assert found.any
    assert found.tars["status"].to_list() == ["unreadable"]
