"""Tar shards as a source: which tars a name, a glob or webdataset's braces mean.

shards/0.tar    shards/*.tar    s3://bucket/shards/{000..010}.tar
"""

import glob
import os
import re
import stat
from pathlib import Path

import polars as pl

from pipeline.errors import InputError
from pipeline.homes import without_tilde
from pipeline.images.folders import Columns, in_range
from pipeline.images.objects import below, describe, size_and_time
from pipeline.images.paths import is_url, local_path, path_text, whole_path

_COMPRESSED = re.compile(r"\.(tar\.[a-z0-9]+|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAGIC = re.compile(r"[*?[]")


def names_tars(source: str) -> bool:
    """Tell whether a source means tar shards; a folder may be called x.tar, too.

    Raises:
        InputError: it means tars that are compressed.
    """
    local = None if is_url(source) else without_tilde(local_path(source))
    if local is not None and local.is_dir():
        return False
    if _COMPRESSED.search(source):
        raise InputError(
            f"source {source}: a compressed tar cannot be read from the middle; "
            "unpack it to a plain .tar"
        )
    return source.lower().endswith(".tar")


def shard_root(source: str) -> str:
    """Return the absolute pattern of a source of tar shards, as text."""
    return source if is_url(source) else path_text(whole_path(local_path(source)))


def matches(pattern: str, tar: str) -> bool:
    """Tell whether a tar's path belongs to a pattern as `shard_root` returns it.

    >>> matches("/shards/{00..10}.tar", "/shards/07.tar")
    True
    >>> matches("/shards/*.tar", "/shards/deeper/07.tar")
    False
    """
    if not is_url(pattern):
        pattern, tar = local_path(pattern), local_path(tar)
    return any(tar == one or _regex(one).fullmatch(tar) for one in (pattern, *_expand(pattern)))


def list_shards(root: str) -> pl.DataFrame:
    """List the tars of a source.

    Args:
        root: as `shard_root` returns it.

    Returns:
        Columns as in LISTING, sorted by path.

    Raises:
        InputError: no tar of that name, or none that matches.
    """
    columns = Columns(root)
    found = _list_objects(root) if is_url(root) else _list_files(local_path(root))
    if not found:  # were it taken, every image of its tars would be recorded as gone
        why = "matches no .tar" if _MAGIC.search(root) else "no such file"
        raise InputError(f"source {root}: {why}")
    for path, (size, mtime, problem) in found.items():
        columns.add(path, size, mtime, problem)
    return columns.frame().sort("path")


Stat = tuple[int, int, str | None]  # bytes, mtime in nanoseconds, why it cannot be opened


def _list_files(pattern: str) -> dict[str, Stat]:
    if os.path.lexists(pattern):  # whatever braces and stars are in its name
        return {path_text(pattern): _stat(pattern)}
    found: dict[str, Stat] = {}
    for one in _expand(pattern):
        if os.path.lexists(one):
            found[path_text(one)] = _stat(one)
        elif magic := _MAGIC.search(one):
            folder = one[: magic.start()].rpartition("/")[0] or "/"
            if not Path(folder).is_dir():
                raise InputError(f"source {path_text(pattern)}: no such folder: {folder}")
            for path in glob.glob(one, recursive=True):  # noqa: PTH207 - also names that are no text
                found[path_text(path)] = _stat(path)
    return found


def _stat(path: str) -> Stat:
    try:
        status = Path(path).stat()
    except OSError as error:
        return 0, 0, f"cannot be opened: {error.strerror}"
    special = None if stat.S_ISREG(status.st_mode) else "not a regular file"
    return status.st_size, in_range(status.st_mtime_ns), special


def _list_objects(pattern: str) -> dict[str, Stat]:
    found: dict[str, Stat] = {}
    for one in _expand(pattern):
        magic = _MAGIC.search(one)
        if magic is None:
            info = describe(one)
            if info.is_file:
                found[one] = (*size_and_time(info), None)
            continue
        folder, _, rest = one[: magic.start()].rpartition("/")
        wanted = _regex(one)
        recursive = "/" in rest + one[magic.start() :]
        for path, info in below(folder, recursive=recursive):
            if info.is_file and wanted.fullmatch(path):
                found[path] = (*size_and_time(info), None)
    return found


def _expand(pattern: str) -> list[str]:
    """Write out webdataset's braces: numbers from..to with leading zeros, or words with commas.

    >>> _expand("{a,b}-{08..10}.tar")
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    inside = _RANGE.fullmatch(braces[1])
    if inside:
        first, last = int(inside[1]), int(inside[2])
        width = len(inside[1]) if inside[1].startswith("0") else 0
        words = [f"{number:0{width}}" for number in range(first, last + 1)]
    else:
        words = braces[1].split(",")
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return [before + word + rest for word in words for rest in _expand(after)]


def _regex(pattern: str) -> re.Pattern[str]:
    """Translate a glob as `glob.glob` reads it: * and ? stay in one folder, **/ goes deeper."""
    written, begins = "", True  # whether a folder's or file's name begins here
    for piece in re.findall(r"\*\*/|\[!?\]?[^]]*\]|.", pattern, re.DOTALL):
        if piece == "**/" and begins:
            written += r"(?:[^/.][^/]*/)*"
            continue
        if begins and piece[0] in "*?[":
            written += r"(?!\.)"  # a hidden name has to be written out
        if len(piece) > 1 and piece[0] == "[":
            inside = piece[1:-1].replace("\\", "\\\\")
            written += f"[{'^' + inside[1:] if inside.startswith('!') else inside}]"
        else:
            written += {"*": "[^/]*", "?": "[^/]", "**/": "[^/]*/"}.get(piece, re.escape(piece))
        begins = piece.endswith("/")
    return re.compile(written, re.DOTALL)
