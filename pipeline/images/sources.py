"""Sources: the folders that images arrive in. A folder in, one row per file out.

A path is kept as text. A name that is not UTF-8 has no text, so it is kept as its file:// URI, from
which the exact bytes come back.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

import polars as pl

from pipeline.errors import InputError

UNLISTED = "folder cannot be listed"
LISTING = {
    "path": pl.String,
    "source": pl.String,
    "bytes": pl.Int64,
    "mtime": pl.Int64,  # nanoseconds since 1970, as the file system tells it
    "problem": pl.String,  # why it cannot be opened; null: it may be
}


@dataclass(frozen=True)
class Found:
    """One file, or one thing that stands where a file should."""

    path: str
    source: str
    bytes: int
    mtime: int
    problem: str | None = None


def list_sources(sources: tuple[str, ...], *, leave_out: Path | None = None) -> pl.DataFrame:
    """List every file below the sources, hidden ones (with a leading dot) left out.

    Args:
        sources: folders.
        leave_out: a folder that is not looked into: a store that lies in a source.

    Returns:
        Columns as in LISTING, one row per path, sorted by path.

    Raises:
        InputError: a source is missing, no folder, or of a kind that is not read.
    """
    rows = [found for source in sources for found in _list_folder(source, leave_out)]
    columns = {
        name: pl.Series(name, [getattr(row, name) for row in rows], dtype=dtype)
        for name, dtype in LISTING.items()
    }
    listing = pl.DataFrame(columns).unique("path", keep="first")  # sources may overlap
    return listing.sort("path").with_columns(
        pl.from_epoch("mtime", "ns").dt.replace_time_zone("UTC")
    )


def source_root(source: str) -> str:
    """Return the absolute folder of a source, however the user wrote it.

    Raises:
        InputError: it is missing, no folder, or of a kind that is not read.
    """
    if "://" in source:
        raise InputError(f"source {source}: only folders can be read so far")
    root = Path(whole_path(source))
    if not root.exists():
        raise InputError(f"source {source}: no such folder (looked for {root})")
    if not root.is_dir():
        raise InputError(f"source {source}: is a file; name the folder it lies in")
    return str(root)


def whole_path(given: str) -> str:
    """Return the absolute path of what a user wrote, links in it kept as they are.

    Only where it goes up (..) are links followed, for `link/..` is where the link leads.
    """
    path = Path(given).expanduser()
    return str(path.resolve() if ".." in path.parts else path.absolute())


def path_text(path: str) -> str:
    """Return a path as text that Parquet can hold and `local_path` can undo."""
    try:
        path.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 arrive as lone surrogates
        return Path(path).as_uri()
    return path


def local_path(text: str) -> str:
    """Undo `path_text`."""
    if text.startswith("file://"):
        return os.fsdecode(unquote_to_bytes(text.removeprefix("file://")))
    return text


def _list_folder(source: str, leave_out: Path | None) -> Iterator[Found]:
    root = source_root(source)
    source = path_text(root)
    status = Path(root).stat()
    waiting, seen = [root], {(status.st_dev, status.st_ino)}
    if leave_out is not None:
        status = leave_out.stat()
        seen.add((status.st_dev, status.st_ino))
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                # Sorted, so that a folder with two names is always found under the same one.
                visible = sorted(
                    (entry for entry in entries if not entry.name.startswith(".")),
                    key=lambda entry: entry.name,
                )
        except OSError as error:
            problem = f"{UNLISTED}: {error.strerror}"
            yield Found(path_text(folder), source, 0, 0, problem)
            continue
        for entry in visible:
            try:
                status = entry.stat()
            except OSError as error:  # a link to nothing or to itself
                problem = f"cannot be opened: {error.strerror}"
                yield Found(path_text(entry.path), source, 0, 0, problem)
                continue
            if stat.S_ISDIR(status.st_mode):
                key = (status.st_dev, status.st_ino)
                if key not in seen:  # links can lead back up
                    seen.add(key)
                    waiting.append(entry.path)
                continue
            special = None if stat.S_ISREG(status.st_mode) else "not a regular file"
            yield Found(
                path_text(entry.path),
                source,
                status.st_size,
                _in_range(status.st_mtime_ns),
                special,
            )


def _in_range(nanoseconds: int) -> int:
    """Keep a time within 64 bits: a file may claim to be of the year 2400."""
    return max(-(2**63), min(nanoseconds, 2**63 - 1))
