"""Tars in webdataset layout: where the bytes of each image lie in one, and of what is told of it.

The members of a key (the name up to the first dot of its last part) belong together: `key.jpg` is
the image, `key.txt` and `key.json` are its side information. Members of other kinds are no images
and are passed over. Of members with one name the last counts, as for `tar` itself.
"""

import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import polars as pl

from pipeline.images.decoding import promises_image
from pipeline.images.folders import LISTING
from pipeline.images.objects import open_object, reason_of, retried
from pipeline.images.paths import is_url, local_path, member_text

PLACES = {  # where a member's bytes lie in its tar; null for what is no member, or has none such
    "offset": pl.Int64,
    "text_offset": pl.Int64,
    "text_bytes": pl.Int64,
    "json_offset": pl.Int64,
    "json_bytes": pl.Int64,
}
SHARD = "shard"  # the status of a tar whose members were all observed
UNREADABLE = pl.lit("unreadable")
_BLOCK = tarfile.BLOCKSIZE
_READERS = 8  # tars looked through at once
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


_NO_END = "cut short: it has no end mark"
_FOUND = {"path": pl.String, "source": pl.String, "bytes": pl.Int64, "problem": pl.String}


class DamagedTarError(Exception):
    """A tar that cannot be followed to its end."""


@dataclass(frozen=True)
class Place:
    """Where one member's bytes lie."""

    offset: int
    size: int
    problem: str | None = None  # why they cannot be read


_NOWHERE = Place(-1, -1)


@dataclass(frozen=True)
class OpenedTars:
    """What was found in some tars."""

    members: pl.DataFrame  # images; columns as in LISTING and PLACES
    tars: pl.DataFrame  # path, source, bytes, mtime, status, reason of the tars themselves


def open_tars(tars: pl.DataFrame) -> OpenedTars:
    """Look through tars; a damaged one gives the members before the damage.

    Args:
        tars: columns as in LISTING; those with a problem are not opened.
    """
    told = list(tars.select("path", "problem").iter_rows())
    with ThreadPoolExecutor(_READERS, thread_name_prefix="tar") as pool:
        found = list(pool.map(lambda row: _images(*row), told))
    empty = pl.DataFrame(schema={**_FOUND, **PLACES})
    members = pl.concat([empty, *(members for members, _ in found)])
    times = tars.select("mtime", source="path")  # a member's own time is not to be trusted
    reasons = pl.Series("reason", [reason for _, reason in found], pl.String)
    status = pl.when(pl.col("reason").is_null()).then(pl.lit(SHARD)).otherwise(UNREADABLE)
    return OpenedTars(
        members=members.join(times, on="source").select(*LISTING, *PLACES),
        tars=tars.drop("problem").with_columns(reasons).with_columns(status=status),
    )


def index(tar: str) -> tuple[dict[str, Place], str | None]:
    """Find the bytes of every member of a tar, and say why not of all where it is damaged.

    Args:
        tar: its path as text.
    """
    try:
        if is_url(tar):
            return retried(lambda: _look_through(open_object(tar)))
        return _look_through(open(local_path(tar), "rb"))
    except OSError as error:
        return {}, reason_of(error)


def _look_through(file: BinaryIO) -> tuple[dict[str, Place], str | None]:
    places: dict[str, Place] = {}
    with file:
        try:
            for member in _members(file):
                place = _place(member, places)
                if place is not None:
                    places[member.name] = place
        except DamagedTarError as error:
            return places, str(error)
    return places, None


def _images(tar: str, problem: str | None) -> tuple[pl.DataFrame, str | None]:
    if problem is not None:
        return pl.DataFrame(schema={**_FOUND, **PLACES}), problem
    places, damage = index(tar)
    rows = []
    for name, place in places.items():
        if promises_image(name) and not _is_hidden(name):
            key = _key(name)
            text, about = places.get(f"{key}.txt", _NOWHERE), places.get(f"{key}.json", _NOWHERE)
            row = (member_text(name, tar), tar, place.size, place.problem, place.offset)
            rows.append((*row, text.offset, text.size, about.offset, about.size))
    frame = pl.DataFrame(rows, {**_FOUND, **PLACES}, orient="row")
    absent = [pl.col(c).replace(-1, None) for c in PLACES]
    return frame.with_columns(absent), damage


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar.

    Raises:
        DamagedTarError: it does not go on as a tar does.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(4).startswith(_PACKED):
        raise DamagedTarError("is compressed: unpack it to a plain .tar")
    file.seek(0)
    try:
        tar = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")
        reached = -1
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # or each would stay in memory
            if member.offset <= reached or member.size < 0:
                raise DamagedTarError("damaged: a header leads back")
            reached = member.offset
            if member.isreg() and member.offset_data + member.size > size:
                raise DamagedTarError(f"cut short: ends within {member.name!a}")
            yield member
        file.seek(tar.offset)
        end = file.read(_BLOCK)
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise DamagedTarError(f"damaged: {error}") from error
    # tarfile takes a broken header for the end, and so it does the end of the file.
    if end != bytes(_BLOCK):
        raise DamagedTarError("damaged: no header where one should be" if end else _NO_END)


def _place(member: tarfile.TarInfo, places: dict[str, Place]) -> Place | None:
    """Return where a member's bytes lie; None for a folder."""
    if member.isdir():
        return None
    if member.islnk():  # a second name of a member before it
        return places.get(member.linkname, Place(-1, 0, "a link to no member before it"))
    if not member.isreg() or member.issparse():
        return Place(-1, 0, "not a regular file")
    return Place(member.offset_data, member.size)


def _key(name: str) -> str:
    """Return the part of a name that the members of one sample share.

    >>> _key("a.b/0001.seg.png")
    'a.b/0001'
    """
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))
