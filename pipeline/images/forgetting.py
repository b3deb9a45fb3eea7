"""Forget: a source that is not named any more in; its files out of what is there.

A scan tells only of what it lists, so the files of a source that is left out of the config stay as
they were last seen. Here one more observation of each says that it is gone.
"""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from pipeline.catalog import current_files
from pipeline.errors import InputError
from pipeline.images.changes import lies_below
from pipeline.images.scan import observe
from pipeline.images.shards import matches
from pipeline.images.sources import LISTING, root_text
from pipeline.runs import new_run_id
from pipeline.store import Store

REASON = "its source was forgotten"
_TOLD_SOURCES = 10


@dataclass(frozen=True)
class Forgetting:
    """What of a store would be forgotten."""

    source: str  # as the column `source` has it
    rows: pl.DataFrame  # path, source, bytes, mtime, status, image_id: the last of each path
    images: int  # that lie under no other path: labels, search and selection lose them
    kept: int  # files of the source that stay, for another source that is named has them, too


def find_forgotten(store: Store, source: str, named: tuple[str, ...]) -> Forgetting:
    """Find what forgetting a source means; nothing is written.

    Args:
        store: the store to look into.
        source: as a config would name it; it need not be there any more.
        named: the sources of the config.

    Raises:
        InputError: the config still names it, or the store knows no file of it.
    """
    if not source.strip():
        raise InputError("source '': is empty; name the source to forget")
    root, roots = root_text(source), [root_text(one) for one in named]
    if root in roots:
        raise InputError(
            f"source {source}: the config still names it, and the next run would take it back; "
            "leave it out of `sources` first"
        )
    files = current_files(store, ["source", "bytes", "mtime", "status", "image_id"])
    there = files.filter(pl.col("status") != "gone")
    its_tars = there.filter(pl.col("source") == root)["path"].implode()
    own = (pl.col("source") == root) | (pl.col("path") == root) | pl.col("source").is_in(its_tars)
    found = there.filter(own)
    if not len(found):
        raise InputError(f"source {source}: {_unknown(store, root, there)}")
    held = found.filter(_named_too(found, roots))
    rows = found.join(held, on="path", how="anti")
    left = there.join(rows, on="path", how="anti").filter(pl.col("status") == "ok")
    lost = rows.filter(pl.col("status") == "ok").join(left, on="image_id", how="anti")
    return Forgetting(root, rows, images=lost["image_id"].n_unique(), kept=len(held))


def forget(store: Store, found: Forgetting, *, now: datetime) -> str:
    """Record that the files are gone; return the name of the run that this counts as.

    Args:
        store: the store to write to, its lock held.
        found: as `find_forgotten` returns it.
        now: the present, with time zone.
    """
    run_id = new_run_id(store, now)
    gone = found.rows.with_columns(problem=pl.lit(REASON)).select(*LISTING, status=pl.lit("gone"))
    if len(gone):
        observe(store, f"{run_id}-forget", gone.rename({"problem": "reason"}), run_id, now)
    return run_id


def _named_too(found: pl.DataFrame, roots: list[str]) -> pl.Expr:
    """Tell which files lie in a source that is still named; a member goes as its tar does."""
    tars = {*found["source"], *found["path"].filter(found["status"] == "shard")}
    still = [tar for tar in tars if any(matches(root, tar) for root in roots)]
    return lies_below(roots) | pl.col("path").is_in(still) | pl.col("source").is_in(still)


def _unknown(store: Store, root: str, there: pl.DataFrame) -> str:
    sources = there.filter(~pl.col("source").is_in(there["path"].implode()))["source"]  # no tars
    names = sources.unique().sort().to_list()
    told = ", ".join(names[:_TOLD_SOURCES]) + (" ..." if len(names) > _TOLD_SOURCES else "")
    return f"{store.location} holds no file of {root}; its sources are: {told or 'none'}"
