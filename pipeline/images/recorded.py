"""Recorded images: an id in; its bytes out, where they still lie as a run saw them.

For whoever shows images to others: what is read lies in the source that it was found in, links
followed, and has the very hash that is its id. Whatever took its place meanwhile, be it by a link
to somebody's secrets, has another hash and is not shown.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import polars as pl

from pipeline.catalog import current_files
from pipeline.images.decoding import Refusal, image_id
from pipeline.images.folders import in_range
from pipeline.images.objects import describe, size_and_time
from pipeline.images.paths import is_url, local_path, split_member
from pipeline.images.reading import Planned, Waiting, read_bytes, read_planned
from pipeline.store import Store

_COLUMNS = ["image_id", "status", "source", "bytes", "mtime"]
_LEFT = "leads out of the source it was found in"
_CHANGED = "is not as it was when it was scanned; the next run looks again"


@dataclass(frozen=True)
class Seen:
    """One path of an image, as the store's catalog has it."""

    path: str
    source: str
    bytes: int
    mtime: int  # nanoseconds since 1970; of a member: of its tar


@dataclass(frozen=True)
class Gone:
    """Why the bytes of an image cannot be had."""

    reason: str  # names no path


class RecordedImages:
    """The images of a store that are there now, by id."""

    def __init__(self, files: pl.DataFrame) -> None:
        """Use `of`."""
        self._files = files  # sorted by image_id: found by bisection, for a dict takes much memory

    @classmethod
    def of(cls, store: Store) -> Self:
        """Read them from the catalog of a store."""
        files = current_files(store, _COLUMNS).filter(pl.col("status") == "ok").drop("status")
        times = pl.col("mtime").dt.epoch("ns")
        shared = pl.col("source").cast(pl.Categorical)  # a few texts, many times
        return cls(files.with_columns(times, shared).sort("image_id", "path"))

    def ids(self) -> pl.DataFrame:
        """Return the column image_id, an id as often as it has paths."""
        return self._files.select("image_id")

    def seen(self, wanted: str) -> list[Seen]:
        """Return the paths of an image, in alphabetical order; none where it is unknown."""
        ids = self._files["image_id"]
        first, end = (int(ids.search_sorted(wanted, side)) for side in ("left", "right"))
        rows = self._files[first:end].select("path", "source", "bytes", "mtime")
        return [Seen(*row) for row in rows.iter_rows()]

    def read(self, wanted: str) -> bytes | Gone | None:
        """Return the bytes of an image; None where the store knows no such image.

        Args:
            wanted: its id.
        """
        trouble = None
        for seen in self.seen(wanted):
            found = read_seen(seen, wanted)
            if isinstance(found, bytes):
                return found
            trouble = trouble or found
        return trouble


def read_seen(seen: Seen, wanted: str) -> bytes | Gone:
    """Read one path of an image.

    Args:
        seen: where it was.
        wanted: the id of the image that was there.
    """
    try:
        outside = _outside(seen)
        if outside:
            return Gone(outside)
        data = _read(seen)
    except OSError as error:
        return Gone(error.strerror or "cannot be read" if error.errno else "is not there any more")
    if isinstance(data, Waiting | Refusal):
        return Gone(data.reason)
    return data if image_id(data) == wanted else Gone(_CHANGED)


def _outside(seen: Seen) -> str | None:
    """Return why a path does not lie in its source; None where it does.

    Raises:
        OSError: it leads nowhere.
    """
    member = split_member(seen.path)
    if member:  # the tar is the source; by the hash its members cannot be others than they were
        return None if member[1] == seen.source else _LEFT
    if is_url(seen.path):
        below = seen.path.startswith(f"{seen.source.rstrip('/')}/")
        return None if below and ".." not in seen.path.split("/") else _LEFT
    root = Path(local_path(seen.source)).resolve(strict=True)
    there = Path(local_path(seen.path)).resolve(strict=True).is_relative_to(root)
    return None if there else _LEFT


def _read(seen: Seen) -> bytes | Waiting | Refusal:
    """Read no more than was recorded; `touch` alone changes nothing for us.

    Raises:
        OSError: it cannot be read.
    """
    member = split_member(seen.path)
    if member:
        same = _stamp(member[1])[1] == seen.mtime
        return read_bytes(seen.path) if same else Refusal("unreadable", _CHANGED)
    size, mtime = _stamp(seen.path)
    if size != seen.bytes:
        return Refusal("unreadable", _CHANGED)
    return read_planned(Planned(seen.path, size, mtime))


def _stamp(path: str) -> tuple[int, int]:
    if is_url(path):
        return size_and_time(describe(path))
    status = Path(local_path(path)).stat()
    return status.st_size, in_range(status.st_mtime_ns)
