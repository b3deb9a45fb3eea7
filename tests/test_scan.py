"""Scan against listings and memories made by hand: what is new, changed, gone or left waiting."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from pipeline.catalog import current_files
from pipeline.errors import InputError
from pipeline.images.scan import (
    Changes,
    Rules,
    compare,
    discard_plans,
    find_changes,
    read_shard,
    record_changes,
)
from pipeline.opening import create_store
from pipeline.runs import new_run_id
from tests.helpers import NOON, axis, draw, make_store, write_observations

OLD, YOUNG = NOON - timedelta(hours=1), NOON + timedelta(seconds=1)
COLUMNS: dict[str, type[pl.DataType] | pl.DataType] = {
    "path": pl.String,
    "source": pl.String,
    "bytes": pl.Int64,
    "mtime": pl.Datetime("ns", "UTC"),
}


def listing(*rows: tuple[object, ...]) -> pl.DataFrame:
    """Make a listing of path, source, bytes, mtime and, where there is one, problem."""
    full = [(*row, None)[:5] for row in rows]
    return pl.DataFrame(full, schema={**COLUMNS, "problem": pl.String}, orient="row")


def known(*rows: tuple[object, ...]) -> pl.DataFrame:
    """Make what was last seen: path, source, bytes, mtime, status, reason if there is one."""
    full = [(*row, None)[:6] for row in rows]
    schema = {**COLUMNS, "status": pl.String, "reason": pl.String}
    return pl.DataFrame(full, schema=schema, orient="row")


def changes(
    now: pl.DataFrame, before: pl.DataFrame, *, scanned: str = "/s", retry: bool = False
) -> Changes:
    at = NOON + timedelta(hours=1)
    return compare(now, before, scanned=[scanned], rules=Rules(at, 3600, retry))


def paths(frame: pl.DataFrame) -> list[str]:
    return sorted(frame["path"])


def test_new_changed_and_returned_files_are_read_and_known_ones_are_not() -> None:
    found = changes(
        listing(
            ("/s/new", "/s", 1, OLD),
            ("/s/same", "/s", 1, OLD),
            ("/s/larger", "/s", 2, OLD),
            ("/s/touched", "/s", 1, OLD + timedelta(microseconds=1)),
            ("/s/back", "/s", 1, OLD),
            ("/s/notes", "/s", 1, OLD),
        ),
        known(
            ("/s/same", "/s", 1, OLD, "ok"),
            ("/s/larger", "/s", 1, OLD, "ok"),
            ("/s/touched", "/s", 1, OLD, "unreadable"),
            ("/s/back", "/s", 2, OLD, "gone"),
            ("/s/notes", "/s", 1, OLD, "ignored"),
        ),
    )
    assert paths(found.to_read) == ["/s/back", "/s/larger", "/s/new", "/s/touched"]
    assert (found.listed, found.new, found.changed, found.waiting) == (6, 2, 2, 0)
    assert len(found.problems) == len(found.gone) == 0
    assert found.any


def test_a_young_file_waits_unless_it_is_known() -> None:
    found = changes(
        listing(
            ("/s/young", "/s", 1, YOUNG),
            ("/s/growing", "/s", 2, YOUNG),
            ("/s/known", "/s", 1, YOUNG),
            ("/s/settled", "/s", 1, NOON),
        ),
        known(("/s/growing", "/s", 1, OLD, "ok"), ("/s/known", "/s", 1, YOUNG, "ok")),
    )
    assert paths(found.to_read) == ["/s/settled"]
    assert (found.new, found.changed, found.waiting) == (1, 0, 2)
    assert len(found.gone) == 0  # what waits is not gone


def test_what_is_no_longer_there_is_gone_once_and_only_from_the_sources_listed() -> None:
    found = changes(
        listing(("/s/here", "/s", 1, OLD)),
        known(
            ("/s/here", "/s", 1, OLD, "ok"),
            ("/s/lost", "/s", 1, OLD, "ok"),
            ("/s/bad", "/s", 1, OLD, "unreadable"),
            ("/s/long ago", "/s", 1, OLD, "gone"),
            ("file:///s/%FF", "/s", 1, OLD, "ok"),  # a name that is not UTF-8
            ("/other/x", "/other", 1, OLD, "ok"),
            ("/s2/x", "/s2", 1, OLD, "ok"),
        ),
    )
    assert paths(found.gone) == ["/s/bad", "/s/lost", "file:///s/%FF"]
    assert set(found.gone["problem"]) == {"no longer there"}
    assert len(found.to_read) == 0
    assert found.any


def test_a_file_seen_under_a_source_inside_this_one_can_be_gone() -> None:
    found = changes(listing(), known(("/s/sub/lost", "/s/sub", 1, OLD, "ok")))
    assert paths(found.gone) == ["/s/sub/lost"]


def test_files_below_a_folder_that_cannot_be_listed_are_not_gone() -> None:
    found = changes(
        listing(("/s/locked", "/s", 0, OLD, "folder cannot be listed: Permission denied")),
        known(
            ("/s/locked/a", "/s", 1, OLD, "ok"),
            ("file:///s/locked/%FF", "/s", 1, OLD, "ok"),
            ("/s/locked-not/b", "/s", 1, OLD, "ok"),
        ),
    )
    assert paths(found.gone) == ["/s/locked-not/b"]
    assert paths(found.problems) == ["/s/locked"]


def test_what_cannot_be_opened_is_recorded_and_not_read() -> None:
    found = changes(
        listing(("/s/pipe", "/s", 0, OLD, "no file"), ("/s/link", "/s", 0, OLD, "no file")),
        known(("/s/link", "/s", 0, OLD, "unreadable")),
    )
    assert paths(found.problems) == ["/s/pipe"]
    assert len(found.to_read) == 0


def test_what_the_network_kept_from_us_is_tried_again_unasked() -> None:
    rows = [(f"s3://b/{name}", "s3://b", 1, OLD) for name in ("kept", "denied", "other")]
    reasons = ["not fetched after 3 attempts: 503", "cannot be read: not fetched", "not an image"]
    before = [(*row, "unreadable", reason) for row, reason in zip(rows, reasons, strict=True)]
    found = changes(listing(*rows), known(*before), scanned="s3://b")
    assert paths(found.to_read) == ["s3://b/kept"]
    assert (found.new, found.changed) == (0, 1)


def test_a_file_whose_vector_was_lost_is_read_again() -> None:
    found = changes(listing(("/s/a", "/s", 1, OLD)), known(("/s/a", "/s", 1, OLD, "lost")))
    assert (paths(found.to_read), found.changed) == (["/s/a"], 1)


def test_an_object_never_waits_for_it_appears_whole() -> None:
    names = ["s3://b/new", "/s/new", "file:///s/%FF"]
    found = changes(listing(*((name, "/s", 1, YOUNG) for name in names)), known())
    assert (paths(found.to_read), found.waiting) == (["s3://b/new"], 2)


def test_only_what_lies_below_a_prefix_that_was_listed_can_be_gone() -> None:
    places = ["s3://b/p/x", "s3://b/p/deep/x", "s3://b/p2/x", "s3://c/p/x", "/b/p/x"]
    before = known(*((place, "s3://b/p", 1, OLD, "ok") for place in places))
    found = changes(listing(), before, scanned="s3://b/p")
    assert paths(found.gone) == ["s3://b/p/deep/x", "s3://b/p/x"]


def test_a_source_taken_out_of_the_config_leaves_its_files_as_they_are(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", {draw(tmp_path / "a/1.png", "red"): axis(0)})
    (tmp_path / "b").mkdir()
    found = find_changes(store, (str(tmp_path / "b"),), settle_seconds=0, now=NOON)
    assert not found.any


@pytest.mark.parametrize("source", ["store", "store/runs", "link"])
def test_the_store_itself_is_no_source_and_is_left_out_of_one(tmp_path: Path, source: str) -> None:
    draw(tmp_path / "a.png", "red")
    store = make_store(tmp_path / "store", {})
    draw(tmp_path / "store/runs/r1/contact-sheet.png", "blue")
    (tmp_path / "link").symlink_to("store")
    with pytest.raises(InputError, match=f"{source}: lies in the store itself"):
        find_changes(store, (str(tmp_path / source),), settle_seconds=0, now=NOON)
    found = find_changes(store, (str(tmp_path),), settle_seconds=0, now=NOON)
    assert paths(found.to_read) == [f"{tmp_path}/a.png"]


def test_a_merged_part_does_not_turn_the_names_of_runs_back(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "store"))
    first, last = "20240501T120000000000-scan", "20240601T120000000000-00000"
    write_observations(store, f"{first}~{last}~{0:016x}", [])
    assert new_run_id(store, NOON) == "20240601T120000001000"


@pytest.mark.parametrize(("retry", "read"), [(False, []), (True, ["/s/bad"])])
def test_a_file_that_failed_is_tried_again_only_when_asked(retry: bool, read: list[str]) -> None:
    same = [("/s/bad", "/s", 1, OLD), ("/s/good", "/s", 1, OLD), ("/s/text", "/s", 1, OLD)]
    states = ["unreadable", "ok", "ignored"]
    before = known(*((*row, state) for row, state in zip(same, states, strict=True)))
    found = changes(listing(*same), before, retry=retry)
    assert paths(found.to_read) == read
    assert (found.any, found.changed) == (retry, len(read))


def test_find_changes_takes_files_older_than_the_settling_time(tmp_path: Path) -> None:
    for name, age in (("a", 31), ("b", 29)):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
        os.utime(tmp_path / "in" / name, ns=(0, int((NOON.timestamp() - age) * 1e9)))
    store = create_store(str(tmp_path / "store"))
    found = find_changes(store, (str(tmp_path / "in"),), settle_seconds=30, now=NOON)
    assert (paths(found.to_read), found.waiting) == ([str(tmp_path / "in/a")], 1)


def test_a_file_dated_in_the_far_future_does_not_wait_for_that_day(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").touch()
    os.utime(tmp_path / "in/a.jpg", (0, (NOON + timedelta(days=3650)).timestamp()))
    store = create_store(str(tmp_path / "store"))
    found = find_changes(store, (str(tmp_path / "in"),), settle_seconds=30, now=NOON)
    assert len(found.to_read) == 1


def test_recording_writes_down_what_needs_no_reading_and_plans_the_rest(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "store"))
    names = [f"/s/{number}" for number in range(5)]
    found = changes(
        listing(*((name, "/s", 1, OLD) for name in names), ("/s/pipe", "/s", 0, OLD, "no file")),
        known(("/s/lost", "/s", 7, OLD, "ok")),
    )
    summary = record_changes(store, found, run_id="r1", now=NOON, shard_rows=2)
    assert summary.shards == 3
    assert not summary.nothing_new
    shards = [read_shard(store, "r1", shard) for shard in range(3)]
    assert [paths(shard) for shard in shards] == [names[:2], names[2:4], names[4:]]
    assert shards[0].row(0)[:4] == ("/s/0", "/s", 1, OLD)
    discard_plans(store)
    assert store.folder.names("plans") == []
    rows = current_files(store).sort("path").drop("mtime", "seen_at").rows()
    assert rows == [
        ("/s/lost", "/s", None, 7, "gone", "no longer there", "r1"),
        ("/s/pipe", "/s", None, 0, "unreadable", "no file", "r1"),
    ]


def test_the_same_listing_again_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to("nowhere")
    store = create_store(str(tmp_path / "store"))
    for again, run in enumerate(("r1", "r2")):
        found = find_changes(store, (str(tmp_path / "in"),), settle_seconds=0, now=NOON)
        summary = record_changes(store, found, run_id=run, now=NOON, shard_rows=10)
        assert found.any == (not again)
        assert (summary.new, summary.shards) == (1 - again, 0)
        assert summary.nothing_new == bool(again)
    (tmp_path / "in/link").unlink()
    found = find_changes(store, (str(tmp_path / "in"),), settle_seconds=0, now=NOON)
    summary = record_changes(store, found, run_id="r3", now=NOON, shard_rows=10)
    assert (summary.gone, summary.nothing_new) == (1, False)


def test_later_runs_have_later_names_even_when_the_clock_goes_back(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "store"))
    clock = [NOON, NOON, NOON - timedelta(days=400), NOON + timedelta(hours=1)]
    names: list[str] = []
    for now in clock:
        names.append(new_run_id(store, now))
        write_observations(store, f"{names[-1]}-scan", [])
        write_observations(store, f"{names[-1]}-00000", [])
    assert names == sorted(set(names))
    assert names[0] == "20240501T120000000000"
    assert names[3] == "20240501T130000000000"
    assert new_run_id(create_store(str(tmp_path / "s2")), datetime(1999, 1, 1, tzinfo=UTC)) == (
        "19990101T000000000000"
    )


def test_a_source_that_is_empty_now_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = draw(tmp_path / "in/a.png", "red")
    store = make_store(tmp_path / "store", {path: axis(0)})
    path.unlink()
    found = find_changes(store, (str(tmp_path / "in"),), settle_seconds=0, now=NOON)
    assert len(found.gone) == 1
    record_changes(store, found, run_id="20300101T000000000000", now=NOON, shard_rows=9)
    assert f"{tmp_path}/in is empty now: its 1 images are recorded as gone" in caplog.text
