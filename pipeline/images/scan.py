"""Scan: what arrived, changed or went since the last run, and the plan of who reads it.

A file is compared by path, size and time of change; only what differs is read again. Its bytes are
read once, by the shard that decodes it, which also hashes them.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import polars as pl

from pipeline.catalog import current_files
from pipeline.images.sources import UNLISTED, list_sources, local_path, source_root
from pipeline.store import Store
from pipeline.tables import FILES


@dataclass(frozen=True)
class Changes:
    """The difference between a listing and the store; frames have the columns of a listing."""

    to_read: pl.DataFrame  # new or changed, and openable
    problems: pl.DataFrame  # new or changed, and not openable
    gone: pl.DataFrame  # seen by an earlier run, not there now
    listed: int
    new: int
    changed: int
    waiting: int  # too young to be trusted complete

    @property
    def any(self) -> bool:
        """Whether a run has anything to read or to record."""
        return bool(len(self.to_read) or len(self.problems) or len(self.gone))


@dataclass(frozen=True)
class ScanSummary:
    """What one scan found."""

    run_id: str
    listed: int
    new: int
    changed: int
    gone: int
    waiting: int
    unopenable: int  # recorded as unreadable by the scan itself: broken links, pipes ...
    shards: int

    @property
    def nothing_new(self) -> bool:
        """Whether the sources are as the store knows them."""
        return not (self.new or self.changed or self.gone)


def find_changes(
    store: Store,
    sources: tuple[str, ...],
    *,
    settle_seconds: float,
    now: datetime,
    retry_failed: bool = False,
) -> Changes:
    """List the sources and compare with the store; nothing is read or written.

    Args:
        store: the store to compare with.
        sources: folders.
        settle_seconds: a new or changed file younger than this waits.
        now: the present, with time zone.
        retry_failed: also take files that could not be read and have not changed since.

    Raises:
        InputError: a source cannot be listed.
    """
    listing = list_sources(sources, leave_out=store.root)
    known = current_files(store, ["path", "source", "bytes", "mtime", "status"])
    return compare(
        listing,
        known,
        scanned=[source_root(source) for source in sources],
        now=now,
        settle_seconds=settle_seconds,
        retry_failed=retry_failed,
    )


def compare(
    listing: pl.DataFrame,
    known: pl.DataFrame,
    *,
    scanned: list[str],
    now: datetime,
    settle_seconds: float,
    retry_failed: bool = False,
) -> Changes:
    """Compare a listing with the last observation of each path.

    Args:
        listing: as `list_sources` returns it.
        known: path, source, bytes, mtime and status of every path seen before.
        scanned: the folders listed; a path elsewhere is not gone for not being there.
        now: the present, with time zone.
        settle_seconds: a new or changed file younger than this waits.
        retry_failed: also take unreadable files that have not changed.
    """
    both = listing.join(known.drop("source"), on="path", how="left", suffix="_known")
    status = pl.col("status")
    is_new = status.is_null() | (status == "gone")
    differs = (pl.col("bytes") != pl.col("bytes_known")) | (
        pl.col("mtime") != pl.col("mtime_known")
    )
    retried = (status == "unreadable") & retry_failed
    both = both.with_columns(is_new=is_new, is_changed=~is_new & (differs | retried))
    candidates = both.filter(pl.col("is_new") | pl.col("is_changed"))
    # A file dated far in the future is not young: it would wait for that day. A day is more than
    # the clock of a file server goes wrong.
    mtime, settled_before = pl.col("mtime"), now - timedelta(seconds=settle_seconds)
    young = (mtime > settled_before) & (mtime <= now + timedelta(days=1))
    settled = candidates.filter(~young)
    missing = known.filter(status != "gone").join(listing, on="path", how="anti")
    # What lies below a folder that could not be listed is not known to be gone.
    unlisted = listing.filter(pl.col("problem").str.starts_with(UNLISTED))["path"].to_list()
    gone = missing.filter(_below(scanned) & ~_below(unlisted))
    return Changes(
        to_read=settled.filter(pl.col("problem").is_null()).select(listing.columns),
        problems=settled.filter(pl.col("problem").is_not_null()).select(listing.columns),
        gone=gone.with_columns(problem=pl.lit("no longer there")).select(listing.columns),
        listed=len(listing),
        new=int(settled["is_new"].sum()),
        changed=int(settled["is_changed"].sum()),
        waiting=len(candidates) - len(settled),
    )


def _below(folders: list[str]) -> pl.Expr:
    """Tell whether a path lies below one of the folders, however `path_text` wrote it."""
    texts = [folder.rstrip("/") + "/" for folder in folders]
    texts += [Path(local_path(folder)).as_uri().rstrip("/") + "/" for folder in folders]
    return pl.any_horizontal(
        pl.lit(False), *(pl.col("path").str.starts_with(text) for text in texts)
    )


def record_changes(
    store: Store, changes: Changes, *, run_id: str, now: datetime, shard_rows: int
) -> ScanSummary:
    """Record what needs no reading, and write the plan that the shards read from.

    Args:
        store: the store to write to.
        changes: as `find_changes` returns them.
        run_id: names the run; later runs have later names.
        now: the present, with time zone.
        shard_rows: files per shard.
    """
    observed = pl.concat(
        [
            changes.problems.with_columns(status=pl.lit("unreadable")),
            changes.gone.with_columns(status=pl.lit("gone")),
        ]
    )
    if len(observed):
        rows = observed.with_columns(
            image_id=pl.lit(None, pl.String),
            reason=pl.col("problem"),
            run_id=pl.lit(run_id),
            seen_at=pl.lit(now),
        )
        store.write_part("files", f"{run_id}-scan", rows.select(FILES.names).to_arrow().cast(FILES))
    plan = changes.to_read.drop("problem").with_row_index("row")
    if len(plan):
        buffer = BytesIO()
        plan.with_columns(shard=pl.col("row") // shard_rows).drop("row").write_parquet(buffer)
        store.put(_plan_name(run_id), buffer.getbuffer())
    return ScanSummary(
        run_id=run_id,
        listed=changes.listed,
        new=changes.new,
        changed=changes.changed,
        gone=len(changes.gone),
        waiting=changes.waiting,
        unopenable=len(changes.problems),
        shards=-(-len(plan) // shard_rows),
    )


def read_shard(store: Store, run_id: str, shard: int) -> pl.DataFrame:
    """Return the files that a shard of a run is to read: path, source, bytes, mtime."""
    plan = pl.scan_parquet(store.root / _plan_name(run_id))
    return plan.filter(pl.col("shard") == shard).drop("shard").collect()


def discard_plan(store: Store, run_id: str) -> None:
    """Remove a plan that every shard has followed."""
    (store.root / _plan_name(run_id)).unlink(missing_ok=True)


def new_run_id(store: Store, now: datetime) -> str:
    """Name a run by the time, so that names sort by it, even when the clock was set back."""
    wanted = now.astimezone(UTC)
    parts = store.parts("files")
    if parts:
        newest = datetime.strptime(parts[-1].split("-")[0], _RUN_ID).replace(tzinfo=UTC)
        wanted = max(wanted, newest + timedelta(milliseconds=1))
    return wanted.strftime(_RUN_ID)


_RUN_ID = "%Y%m%dT%H%M%S%f"


def _plan_name(run_id: str) -> str:
    return f"runs/{run_id}/plan.parquet"
