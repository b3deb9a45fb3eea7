"""Listing folders: whatever lies in one comes out as a row, and a path's text leads back to it."""

import os
from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import InputError
from pipeline.images.sources import LISTING, list_sources, local_path, path_text, source_root


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"data")


def listed(*sources: Path) -> list[str]:
    """Return the paths found, relative to the first source."""
    paths = list_sources(tuple(str(source) for source in sources))["path"]
    return [os.path.relpath(local_path(path), sources[0]) for path in paths]


def problems(source: Path) -> dict[str, str]:
    rows = list_sources((str(source),)).filter(pl.col("problem").is_not_null())
    return {Path(local_path(p)).name: why for p, why in rows.select("path", "problem").iter_rows()}


def test_every_file_of_every_depth_is_a_row_sorted_by_path(tmp_path: Path) -> None:
    names = [
        "b.jpg",
        "a/B.JPG",
        "a/b.jpg",
        "A/b.jpg",
        "a/deep/er/x.png",
        "no extension",
        "猫/ü.gif",
    ]
    touch(tmp_path, *names)
    (tmp_path / "empty").mkdir()
    assert listed(tmp_path) == sorted(names)


def test_a_row_tells_size_time_and_source(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.jpg")
    os.utime(tmp_path / "sub/a.jpg", ns=(0, 1_700_000_000_123_456_789))
    listing = list_sources((f"{tmp_path}/sub/../",))
    assert listing.columns == list(LISTING)
    (row,) = listing.with_columns(pl.col("mtime").dt.epoch("ns")).rows()
    assert row == (f"{tmp_path}/sub/a.jpg", str(tmp_path), 4, 1_700_000_000_123_456_789, None)


def test_an_empty_folder_is_a_listing_without_rows(tmp_path: Path) -> None:
    listing = list_sources((str(tmp_path),))
    assert len(listing) == 0
    assert listing.columns == list(LISTING)


def test_hidden_files_and_folders_are_left_out_but_a_hidden_source_is_listed(
    tmp_path: Path,
) -> None:
    touch(tmp_path, ".hidden/a.jpg", ".hidden/.b.jpg", ".c.jpg", "d.jpg")
    assert listed(tmp_path) == ["d.jpg"]
    assert listed(tmp_path / ".hidden") == ["a.jpg"]


@pytest.mark.parametrize(
    "name", [b"caf\xe9.jpg", b"100%.jpg", b"a\nb.jpg", b"%FF#?.jpg", b"\xff\xfe/\xe9 x.jpg"]
)
def test_any_name_is_text_that_leads_back_to_its_bytes(tmp_path: Path, name: bytes) -> None:
    touch(tmp_path, os.fsdecode(name))
    (text,) = list_sources((str(tmp_path),))["path"]
    assert text.encode().decode() == text  # UTF-8, as Parquet wants it
    assert os.fsencode(local_path(text)) == os.fsencode(tmp_path) + b"/" + name


def test_a_name_that_is_no_utf8_becomes_its_uri() -> None:
    assert path_text(os.fsdecode(b"/p/caf\xe9 1.jpg")) == "file:///p/caf%E9%201.jpg"
    assert path_text("/p/café 1.jpg") == "/p/café 1.jpg"


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "out/b.jpg")
    (tmp_path / "in/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/other").symlink_to(tmp_path / "out")
    (tmp_path / "out/back").symlink_to(tmp_path / "in")
    (tmp_path / "in/c.jpg").symlink_to("a.jpg")
    assert listed(tmp_path / "in") == ["a.jpg", "c.jpg", "other/b.jpg"]


def test_a_folder_with_two_names_is_found_under_the_first(tmp_path: Path) -> None:
    touch(tmp_path, "in/m/a.jpg")
    (tmp_path / "in/b").symlink_to("m")
    (tmp_path / "in/z").symlink_to("m")
    assert listed(tmp_path / "in") == ["b/a.jpg"]


def test_what_is_no_file_is_a_row_with_its_problem(tmp_path: Path) -> None:
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "broken.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    touch(tmp_path, "good.jpg")
    assert problems(tmp_path) == {
        "self.jpg": "cannot be opened: Too many levels of symbolic links",
        "broken.jpg": "cannot be opened: No such file or directory",
        "pipe.jpg": "not a regular file",
    }
    assert len(listed(tmp_path)) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_a_row_with_its_problem(tmp_path: Path) -> None:
    touch(tmp_path, "locked/a.jpg", "b.jpg")
    (tmp_path / "locked").chmod(0)
    try:
        found, names = problems(tmp_path), listed(tmp_path)
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert found == {"locked": "folder cannot be listed: Permission denied"}
    assert names == ["b.jpg", "locked"]


def test_a_folder_that_cannot_be_listed_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "broken/a.jpg", "b.jpg")

    def scandir(folder: str) -> object:
        if folder.endswith("broken"):
            raise OSError(5, "Input/output error")
        return real(folder)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    assert problems(tmp_path) == {"broken": "folder cannot be listed: Input/output error"}
    assert listed(tmp_path) == ["b.jpg", "broken"]


def test_overlapping_sources_list_a_file_once_under_the_first(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "sub/b.jpg")
    for sources in ((tmp_path, tmp_path / "sub"), (tmp_path / "sub", tmp_path, tmp_path)):
        listing = list_sources(tuple(str(source) for source in sources))
        assert listing["path"].to_list() == [f"{tmp_path}/a.jpg", f"{tmp_path}/sub/b.jpg"]
        assert listing["source"][1] == str(sources[0])


@pytest.mark.parametrize("year", [1900, 1970, 2024, 2400])
def test_a_time_of_change_that_makes_no_sense_stops_nothing(tmp_path: Path, year: int) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    os.utime(tmp_path / "a.jpg", ns=(0, (year - 1970) * 31_556_952 * 10**9))
    assert listed(tmp_path) == ["a.jpg", "b.jpg"]


def test_a_source_is_the_folder_that_the_system_would_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "in/a.jpg", "out/deep/b.jpg")
    (tmp_path / "in/link").symlink_to(tmp_path / "out/deep")
    monkeypatch.chdir(tmp_path / "in")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert source_root(".") == f"{tmp_path}/in"
    assert source_root("../in/") == f"{tmp_path}/in"
    assert source_root("~/in") == f"{tmp_path}/in"
    assert source_root("link") == f"{tmp_path}/in/link"  # paths stay as the user knows them
    assert Path(source_root("link/..")).samefile(tmp_path / "out")  # not the folder of the link


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere", "source nowhere: no such folder .looked for /"),
        ("file.jpg", "source file.jpg: is a file; name the folder it lies in"),
        ("", "source '': is empty; name a folder, a bucket's URL or tar shards"),
        (" ", "source '': is empty"),
        ("good/../nowhere", "no such folder"),
    ],
)
def test_a_source_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, says: str
) -> None:
    touch(tmp_path, "good/a.jpg", "file.jpg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        list_sources(("good", source))
