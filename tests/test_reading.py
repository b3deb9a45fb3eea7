"""Reading what a plan names: the bytes that were listed, or the reason to wait or to give up."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import polars as pl
import pytest

from pipeline.images import reading
from pipeline.images.decoding import Refusal
from pipeline.images.paths import path_text
from pipeline.images.reading import Planned, Waiting, planned, read_bytes, read_planned, read_side
from pipeline.images.sources import list_sources
from pipeline.images.tars import PLACES

TIME = 1_700_000_000_123_456_789


def listed(folder: Path, name: str = "a.jpg", data: bytes = b"data") -> Planned:
    """Write a file, and return its row of a plan."""
    (folder / name).write_bytes(data)
    os.utime(folder / name, ns=(0, TIME))
    listing = list_sources((str(folder),)).with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in PLACES.items()
    )
    return next(row for row in planned(listing) if row.path == path_text(str(folder / name)))


@pytest.mark.parametrize("name", ["a.jpg", "caf\udce9.jpg", "100%.jpg"])
def test_a_file_as_it_was_listed_is_read(tmp_path: Path, name: str) -> None:
    row = listed(tmp_path, name)
    assert (row.bytes, row.mtime) == (4, TIME)  # to the nanosecond
    assert read_planned(row) == b"data"
    assert read_bytes(row.path) == b"data"
    assert read_side(row) is None


@pytest.mark.parametrize("year", [1900, 2400])
def test_a_time_that_no_table_can_hold_is_no_change(tmp_path: Path, year: int) -> None:
    (tmp_path / "a.jpg").write_bytes(b"data")
    time = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    os.utime(tmp_path / "a.jpg", (time, time))
    listing = list_sources((str(tmp_path),)).with_columns(**dict.fromkeys(PLACES))
    assert read_planned(planned(listing)[0]) == b"data"


def test_a_file_that_grew_changed_or_went_since_the_listing_waits(tmp_path: Path) -> None:
    row = listed(tmp_path)
    os.utime(tmp_path / "a.jpg", ns=(0, TIME + 1))
    assert read_planned(row) == Waiting("is being written: it is not as it was listed")
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(b"more")
    os.utime(tmp_path / "a.jpg", ns=(0, TIME))
    assert isinstance(read_planned(row), Waiting)
    (tmp_path / "a.jpg").unlink()
    assert read_planned(row) == Waiting("went away or changed since it was listed")


def test_a_file_written_to_while_it_is_read_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = listed(tmp_path)

    def slow(name: str, head: bytes) -> bool:
        (tmp_path / "a.jpg").write_bytes(b"other")
        return True

    monkeypatch.setattr(reading, "may_be_image", slow)
    assert read_planned(row) == Waiting("was written to while it was read")


@pytest.mark.timeout(10)
def test_a_pipe_in_a_file_s_place_keeps_nobody_waiting(tmp_path: Path) -> None:
    row = listed(tmp_path)
    (tmp_path / "a.jpg").unlink()
    os.mkfifo(tmp_path / "a.jpg")
    assert isinstance(read_planned(row), Waiting)


def test_of_what_is_no_image_only_the_beginning_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = listed(tmp_path, "film", b"no image" * 10_000)
    taken: list[int] = []
    real = reading._open

    class Counting:
        def __init__(self, file: BinaryIO) -> None:
            self._file, self.fileno = file, file.fileno

        def read(self, size: int = -1) -> bytes:
            taken.append(size)
            return self._file.read(size)

    class Opened:
        def __init__(self, path: str) -> None:
            self._inner = real(path)

        def __enter__(self) -> Counting:
            return Counting(self._inner.__enter__())

        def __exit__(self, *_: object) -> None:
            self._inner.__exit__(None, None, None)

    monkeypatch.setattr(reading, "_open", Opened)
    assert read_planned(row) == Refusal("ignored", "not an image")
    assert taken == [32]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    row = listed(tmp_path)
    (tmp_path / "a.jpg").chmod(0)
    assert read_planned(row) == Refusal("unreadable", "cannot be read: Permission denied")


def test_a_disk_that_fails_is_the_file_s_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = listed(tmp_path)

    def failing(path: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(reading, "_open", failing)
    assert read_planned(row) == Refusal("unreadable", "cannot be read: Input/output error")


@pytest.mark.parametrize("path", ["/nowhere/a.jpg", "tar://a.jpg::/nowhere/0.tar"])
def test_what_is_not_there_cannot_be_read(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        read_bytes(path)
