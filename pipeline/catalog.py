"""What is there now: the `files` table is a diary, and this is its last page."""

import polars as pl

from pipeline.store import Store


def current_files(store: Store, columns: list[str] | None = None) -> pl.DataFrame:
    """Return the last observation of every path ever seen, gone ones included.

    Args:
        store: the store to look into.
        columns: those of `tables.FILES` that are wanted; all when None. `path` is always there.
    """
    if columns is not None:
        columns = ["path", *(name for name in columns if name != "path")]
    diary = store.read("files", columns)  # parts are named by time, so rows are in order of time
    return last_observations(diary)


def last_observations(diary: pl.DataFrame) -> pl.DataFrame:
    """Return the last row of every path, of rows of `files` in order of time."""
    return diary.filter(pl.col("path").is_last_distinct())  # `unique` would copy more


def side_info(store: Store) -> pl.DataFrame:
    """Return what is told of images beside their pixels, one row per path: SIDE_INFO."""
    return store.read("side_info").unique("path", keep="last", maintain_order=True)


def present_images(store: Store) -> pl.DataFrame:
    """Return one row per image that lies under some path now: image_id, path, paths.

    `path` is the first of its paths in alphabetical order, `paths` how many there are.
    """
    files = current_files(store, ["image_id", "status"]).filter(pl.col("status") == "ok")
    return (
        files.group_by("image_id")
        .agg(pl.col("path").min(), pl.len().alias("paths"))
        .sort("path")
        .select("image_id", "path", "paths")
    )
