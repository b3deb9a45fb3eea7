"""Reading: the bytes of a file of any kind, if it is still as it was listed.

A local file, an object and a member of a tar are read alike. A file that is being written over, or
went away, waits for the next run: what would be recorded of it now is true of no moment.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, TypeVar

import polars as pl

from pipeline.images.decoding import Refusal, may_be_image
from pipeline.images.folders import in_range
from pipeline.images.objects import (
    describe,
    fetch_object,
    fetch_range,
    reason_of,
    size_and_time,
)
from pipeline.images.paths import is_url, local_path, name_of, split_member
from pipeline.images.tars import PLACES, Place, index

R = TypeVar("R")

SIDE_LIMIT = 65_536  # bytes of a sample's text, and of its JSON, that are kept
_HEAD = 32  # bytes that tell whether a file may be an image


@dataclass(frozen=True)
class Planned:
    """One file of a plan; the fields are its columns."""

    path: str
    bytes: int
    mtime: int  # nanoseconds since 1970; of a member: of its tar
    offset: int | None = None
    text_offset: int | None = None
    text_bytes: int | None = None
    json_offset: int | None = None
    json_bytes: int | None = None


@dataclass(frozen=True)
class Waiting:
    """A file that is not as it was listed: nothing is recorded, the next run looks again."""

    reason: str


@dataclass(frozen=True)
class Side:
    """What a tar tells of an image beside its pixels."""

    text: str | None
    json: str | None
    note: str | None  # what is not as it was in the tar; null: all is


def planned(plan: pl.DataFrame) -> list[Planned]:
    """Return the rows of a plan as `read_shard` gives it, times to the nanosecond."""
    columns = ["path", "bytes", "mtime", *PLACES]
    times = plan.select(columns).with_columns(pl.col("mtime").dt.epoch("ns"))
    return [Planned(*row) for row in times.iter_rows()]


def read_planned(row: Planned) -> bytes | Waiting | Refusal:
    """Read one file of a plan.

    Returns:
        Its bytes; or that it has to wait; or why it is none of ours: no image by name and content,
        or not to be read.
    """
    if split_member(row.path):
        return _settled(_read_member, row)
    return _settled(_read_object if is_url(row.path) else _read_file, row)


def read_side(row: Planned) -> Side | Waiting | Refusal | None:
    """Read what a tar tells of an image; None where it tells nothing.

    What keeps it from being read keeps the image from being recorded, too: its row says later
    that it was read whole.
    """
    if row.text_offset is None and row.json_offset is None:
        return None
    return _settled(_read_side, row)


def read_bytes(path: str) -> bytes:
    """Return the bytes that lie under a path of any kind now, retries included.

    Raises:
        OSError: they cannot be read.
    """
    member = split_member(path)
    if member is None:
        if is_url(path):
            return fetch_object(path)
        with open(local_path(path), "rb") as file:
            return file.read()
    name, tar = member
    place = _places(tar, _stamp(tar)).get(name)
    if place is None or place.problem:
        raise FileNotFoundError(f"{path}: {place.problem if place else 'no such member'}")
    return _slice(tar, place.offset, place.size, None)


def _settled(read: Callable[[Planned], R], row: Planned) -> R | Waiting | Refusal:
    try:
        return read(row)
    except FileNotFoundError:
        return Waiting("went away or changed since it was listed")
    except OSError as error:
        return Refusal("unreadable", reason_of(error))


def _read_file(row: Planned) -> bytes | Waiting | Refusal:
    with _open(row.path) as file:
        if _state(file) != (row.bytes, row.mtime):
            return Waiting("is being written: it is not as it was listed")
        head = file.read(_HEAD)
        if not may_be_image(row.path, head):
            return Refusal("ignored", "not an image")
        data = head + file.read()
        changed = _state(file) != (row.bytes, row.mtime) or len(data) != row.bytes
        return Waiting("was written to while it was read") if changed else data


def _read_object(row: Planned) -> bytes | Waiting | Refusal:
    name = name_of(row.path)
    if not may_be_image(name, b"") and not may_be_image(name, fetch_range(row.path, 0, _HEAD)):
        return Refusal("ignored", "not an image")
    data = fetch_object(row.path)
    return data if len(data) == row.bytes else Waiting("is not of the size that was listed")


def _read_member(row: Planned) -> bytes | Waiting | Refusal:
    if row.offset is None:
        return Refusal("unreadable", "its place in the tar is not known")
    data = _slice(_tar_of(row), row.offset, row.bytes, row.mtime)
    return data if len(data) == row.bytes else Waiting("its tar is not as it was listed")


def _read_side(row: Planned) -> Side:
    text, text_note = _read_words(row, "text", row.text_offset, row.text_bytes)
    about, json_note = _read_words(row, "JSON", row.json_offset, row.json_bytes)
    return Side(text, about, "; ".join(filter(None, (text_note, json_note))) or None)


def _read_words(
    row: Planned, what: str, offset: int | None, size: int | None
) -> tuple[str | None, str | None]:
    """Return a text of at most SIDE_LIMIT bytes, and what is not as it was in the tar."""
    if offset is None or size is None:
        return None, None
    if what == "JSON" and size > SIDE_LIMIT:  # cut, it would be no JSON
        return None, f"JSON of {size} bytes left out: more than {SIDE_LIMIT}"
    data = _slice(_tar_of(row), offset, min(size, SIDE_LIMIT), row.mtime)
    words = data.decode("utf-8", "replace").replace("\0", "�")
    if size <= SIDE_LIMIT:
        return words, None
    return words.rstrip("�"), f"text of {size} bytes cut to {SIDE_LIMIT}"


def _slice(tar: str, offset: int, size: int, mtime: int | None) -> bytes:
    """Return bytes of a tar.

    Raises:
        FileNotFoundError: it is not there, or its time of change is not `mtime`.
        OSError: they cannot be read.
    """
    if is_url(tar):
        return fetch_range(tar, offset, size, of=mtime)
    with _open(tar) as file:
        if mtime is not None and _state(file)[1] != mtime:
            raise FileNotFoundError(f"{tar}: is not as it was")
        file.seek(offset)
        return file.read(size)


@contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    """Open a regular file; a pipe that took its place would keep us waiting for ever."""
    descriptor = os.open(local_path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileNotFoundError(f"{path}: is a regular file no more")
        yield file


def _state(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, in_range(status.st_mtime_ns)


def _tar_of(row: Planned) -> str:
    member = split_member(row.path)
    assert member is not None  # only members have places in a tar
    return member[1]


def _stamp(tar: str) -> tuple[int, int]:
    if is_url(tar):
        return size_and_time(describe(tar))
    status = Path(local_path(tar)).stat()
    return status.st_size, in_range(status.st_mtime_ns)


@lru_cache(maxsize=64)  # tars; one of 10,000 members takes some 3 MB
def _places(tar: str, _stamp: tuple[int, int]) -> dict[str, Place]:
    return index(tar)[0]
