"""Local folders: a folder in, columns of every file below it out.

A million files are listed in about the time that the system needs to name and describe them: plain
columns instead of an object per file, and one check per folder instead of one per name.
"""

import os
import stat
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.images.paths import local_path, path_text

UNLISTED = "folder cannot be listed"
LISTING: dict[str, type[pl.DataType] | pl.DataType] = {
    "path": pl.String,
    "source": pl.String,
    "bytes": pl.Int64,
    "mtime": pl.Int64,  # nanoseconds since 1970, as the file system tells it
    "problem": pl.String,  # why it cannot be opened; null: it may be
}
_LAST = 2**63 - 1
_FLUSH = 100_000  # rows kept as Python objects; Polars holds a path in a third of the memory


class Columns:
    """Collects the rows of a listing, column by column."""

    def __init__(self, source: str) -> None:
        """Every row is of this source."""
        self._source = source
        self._frames: list[pl.DataFrame] = []
        self._start()

    def add(self, path: str, size: int = 0, mtime: int = 0, problem: str | None = None) -> None:
        """Take one file, its path as text already."""
        if problem is not None:
            self._problems[len(self._paths)] = problem
        self._paths.append(path)
        self._sizes.append(size)
        self._times.append(mtime)

    def extend(self, paths: list[str], sizes: Iterable[int], times: Iterable[int]) -> None:
        """Take many files that may be opened."""
        self._paths += paths
        self._sizes.extend(sizes)
        self._times.extend(times)
        if len(self._paths) >= _FLUSH:
            self._flush()

    def frame(self) -> pl.DataFrame:
        """Return all rows, columns as in LISTING but with `mtime` as a time."""
        self._flush()
        return pl.concat(self._frames)

    def _start(self) -> None:
        self._paths: list[str] = []
        self._sizes, self._times = array("q"), array("q")
        self._problems: dict[int, str] = {}

    def _flush(self) -> None:
        problems: pl.Expr | pl.Series = pl.lit(None, pl.String)
        if self._problems:
            rows = [self._problems.get(row) for row in range(len(self._paths))]
            problems = pl.Series(rows, dtype=pl.String)
        frame = pl.DataFrame({"path": pl.Series(self._paths, dtype=pl.String)}).with_columns(
            source=pl.lit(self._source),
            bytes=_whole_numbers(self._sizes),
            mtime=pl.from_epoch(_whole_numbers(self._times), "ns").dt.replace_time_zone("UTC"),
            problem=problems,
        )
        self._frames.append(frame)
        self._start()


def list_folder(root: str, leave_out: str | None) -> pl.DataFrame:
    """List every file below a folder, hidden ones (with a leading dot) left out.

    Args:
        root: its path as text.
        leave_out: a local folder that is not looked into: a store that lies in a source.
    """
    columns = Columns(root)
    waiting = [local_path(root)]
    seen = {_identity(Path(waiting[0]).stat())}
    if leave_out is not None:
        seen.add(_identity(Path(leave_out).stat()))
    while waiting:
        folder = waiting.pop()
        try:
            found = _list_entries(folder, columns)
        except OSError as error:
            columns.add(path_text(folder), problem=f"{UNLISTED}: {error.strerror}")
            continue
        # Sorted, so that a folder with two names is always found under the same one.
        for path, identity in sorted(found):
            if identity not in seen:  # links can lead back up
                seen.add(identity)
                waiting.append(path)
    return columns.frame()


def _list_entries(folder: str, columns: Columns) -> list[tuple[str, tuple[int, int]]]:
    """Take the files of one folder; return path and identity of the folders in it."""
    folders, paths, sizes, times = [], [], array("q"), array("q")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                status = entry.stat()
            except OSError as error:  # a link to nothing or to itself
                columns.add(path_text(entry.path), problem=f"cannot be opened: {error.strerror}")
                continue
            kind = stat.S_IFMT(status.st_mode)
            if kind == stat.S_IFREG:
                paths.append(entry.path)
                sizes.append(status.st_size)
                times.append(in_range(status.st_mtime_ns))
                if len(paths) == _FLUSH:  # a folder may hold a million files
                    columns.extend(_texts(paths), sizes, times)
                    paths, sizes, times = [], array("q"), array("q")
            elif kind == stat.S_IFDIR:
                folders.append((entry.path, _identity(status)))
            else:
                mtime = in_range(status.st_mtime_ns)
                columns.add(path_text(entry.path), status.st_size, mtime, "not a regular file")
    columns.extend(_texts(paths), sizes, times)
    return folders


def in_range(nanoseconds: int) -> int:
    """Keep a time within 64 bits: a file may claim to be of the year 2400."""
    return nanoseconds if -_LAST <= nanoseconds <= _LAST else (_LAST if nanoseconds > 0 else -_LAST)


def _texts(paths: list[str]) -> list[str]:
    """Apply `path_text` to each; nearly always a glance at all of them shows that it is idle."""
    try:
        "".join(paths).encode()
    except UnicodeEncodeError:
        return [path_text(path) for path in paths]
    return paths


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _whole_numbers(values: "array[int]") -> pl.Series:
    return pl.Series(np.asarray(values), dtype=pl.Int64)  # np.asarray copies nothing
