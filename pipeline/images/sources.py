"""Sources: where images arrive. A folder, a bucket's prefix or tar shards in, one row per file out.

How a path is kept as text, whatever kind it is of, says `paths`; its names can be had from here.
"""

from pathlib import Path

import polars as pl

from pipeline.errors import InputError
from pipeline.images.folders import LISTING, UNLISTED, list_folder
from pipeline.images.objects import list_objects, object_root
from pipeline.images.paths import is_url, local_path, name_of, path_text, whole_path
from pipeline.images.shards import list_shards, names_tars, shard_root

__all__ = [
    "LISTING",
    "UNLISTED",
    "list_sources",
    "list_tars",
    "local_path",
    "name_of",
    "path_text",
    "root_text",
    "source_root",
    "whole_path",
]


def list_sources(sources: tuple[str, ...], *, leave_out: str | None = None) -> pl.DataFrame:
    """List every file below the folders and prefixes, hidden ones (with a leading dot) left out.

    Args:
        sources: folders, URLs of prefixes, tar shards (which `list_tars` lists).
        leave_out: folder or URL of the store, which may lie in a source and is not looked into.

    Returns:
        Columns as in LISTING, one row per path, sorted by path.

    Raises:
        InputError: a source is missing, cannot be listed, or is the store itself.
    """
    roots = [source_root(source) for source in sources if not names_tars(source)]
    local = None if leave_out is None or is_url(leave_out) else Path(whole_path(leave_out))
    store_url = leave_out.rstrip("/") if leave_out is not None and local is None else None
    frames = []
    for root in roots:
        if is_url(root):
            _refuse(root, within=store_url is not None and f"{root}/".startswith(f"{store_url}/"))
            frames.append(list_objects(root, store_url))
        else:
            there = local is not None and local.exists()
            _refuse(root, within=there and _lies_in(root, str(local)))
            frames.append(list_folder(root, str(local) if there else None))
    return _together(frames)


def list_tars(sources: tuple[str, ...]) -> pl.DataFrame:
    """List the tars that sources of tar shards name.

    Args:
        sources: of any kind; folders and prefixes are passed over.

    Returns:
        Columns as in LISTING, one row per tar, sorted by path.

    Raises:
        InputError: a tar that is named is missing.
    """
    return _together([list_shards(shard_root(name)) for name in sources if names_tars(name)])


def source_root(source: str) -> str:
    """Return what the column `source` says of a source, however the user wrote it.

    Raises:
        InputError: it is missing, or of a kind that is not read.
    """
    if not source.strip():
        raise InputError("source '': is empty; name a folder, a bucket's URL or tar shards")
    if names_tars(source):
        return shard_root(source)
    if is_url(source):
        return object_root(source)
    root = Path(whole_path(local_path(source)))
    if not root.exists():
        raise InputError(f"source {source}: no such folder (looked for {root})")
    if not root.is_dir():
        raise InputError(f"source {source}: is a file; name the folder it lies in")
    return root_text(source)


def root_text(source: str) -> str:
    """Return what the column `source` says of a source, be it there or not."""
    if is_url(source):
        return source if names_tars(source) else source.rstrip("/")
    return path_text(whole_path(local_path(source)))


def _together(frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Return one listing; where sources overlap, a file belongs to the first."""
    schema = {**LISTING, "mtime": pl.Datetime("ns", "UTC")}
    listing = pl.concat([pl.DataFrame(schema=schema), *frames])
    if len(frames) > 1:
        listing = listing.unique("path", keep="first", maintain_order=True)
    return listing.sort("path")


def _lies_in(root: str, store: str) -> bool:
    return Path(local_path(root)).resolve().is_relative_to(Path(store).resolve())


def _refuse(root: str, *, within: bool) -> None:
    if within:
        raise InputError(f"source {root}: lies in the store itself; name another folder or prefix")
