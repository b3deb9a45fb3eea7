"""Scan: what arrived, changed or went since the last run, and the plan of who reads it.

A file is compared by path, size and time of change; only what differs is read again. Its bytes are
read once, by the shard that decodes it, which also hashes them. A tar is compared as one file; its
members are looked at only when it differs.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from io import BytesIO

import polars as pl
import pyarrow.parquet as pq

from pipeline.catalog import current_files
from pipeline.images.changes import TAR_ROWS, Changes, Rules, Tars, compare, judge_tars
from pipeline.images.sources import LISTING, list_sources, list_tars, source_root
from pipeline.images.tars import PLACES, SHARD, open_tars
from pipeline.store import Store
from pipeline.tables import FILES

logger = logging.getLogger(__name__)

__all__ = [
    "PLANS",
    "Changes",
    "Rules",
    "ScanSummary",
    "compare",
    "discard_plans",
    "find_changes",
    "finish_tars",
    "observe",
    "read_shard",
    "record_changes",
    "shard_sizes",
    "together",
]

PLANS = "plans"  # the folder of what a run under way is to read


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
    tars: int = 0  # opened, for they were new or changed
    bytes: int = 0  # of the files that are to be read

    @property
    def nothing_new(self) -> bool:
        """Whether the sources are as the store knows them."""
        return not (self.new or self.changed or self.gone)


def together(scans: Sequence[ScanSummary]) -> ScanSummary:
    """Sum up the scans of one run, which starts again after damage."""
    found = ("new", "changed", "gone", "unopenable", "shards", "tars", "bytes")
    return replace(scans[-1], **{name: sum(getattr(s, name) for s in scans) for name in found})


def find_changes(
    store: Store,
    sources: tuple[str, ...],
    *,
    settle_seconds: float,
    now: datetime,
    retry_failed: bool = False,
) -> Changes:
    """List the sources and compare with the store; nothing is written, only new tars are read.

    Args:
        store: the store to compare with.
        sources: folders, URLs of prefixes, tar shards.
        settle_seconds: a new or changed local file younger than this waits.
        now: the present, with time zone.
        retry_failed: also take files that could not be read and have not changed since.

    Raises:
        InputError: a source cannot be listed.
    """
    scanned = [source_root(source) for source in sources]
    rules = Rules(now, settle_seconds, retry_failed)
    listing, tars = list_sources(sources, leave_out=store.location), list_tars(sources)
    known = current_files(store, ["path", "source", "bytes", "mtime", "status", "reason"])
    if not len(tars):
        return compare(listing, known, scanned=scanned, rules=rules)
    judged = judge_tars(tars, known, rules)
    opened = open_tars(judged.filter("opens").select(tars.columns))
    whole = opened.tars.filter(pl.col("status") == SHARD)["path"].to_list()
    files = listing.filter(~pl.col("path").is_in(tars["path"].implode()))
    changes = compare(
        pl.concat([files, opened.members], how="diagonal").sort("path"),
        known,
        scanned=scanned,
        rules=rules,
        tars=Tars(
            listed=tars["path"].to_list(),
            emptied=whole,
            renewed=judged.filter("renewed")["path"].to_list(),
        ),
    )
    young = pl.concat([changes.young, judged.filter("waits").select("path", "mtime")])
    return replace(changes, waiting=len(young), young=young, tars=opened.tars.select(*TAR_ROWS))


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
    _warn_of_empty(store, changes)
    observed = pl.concat(
        [
            changes.problems.select(*LISTING, status=pl.lit("unreadable")),
            changes.gone.select(*LISTING, status=pl.lit("gone")),
        ]
    ).rename({"problem": "reason"})
    if len(observed):
        observe(store, f"{run_id}-scan", observed, run_id, now)
    if len(changes.tars):
        _put(store, _tars_name(run_id), changes.tars.with_columns(seen_at=pl.lit(now)), shard_rows)
    plan = _with_places(changes.to_read.drop("problem"))
    if len(plan):
        _put(store, _plan_name(run_id), plan, shard_rows)
    return ScanSummary(
        run_id=run_id,
        listed=changes.listed,
        new=changes.new,
        changed=changes.changed,
        gone=len(changes.gone),
        waiting=changes.waiting,
        unopenable=len(changes.problems),
        shards=-(-len(plan) // shard_rows),
        tars=len(changes.tars),
        bytes=int(changes.to_read["bytes"].sum()),
    )


def read_shard(store: Store, run_id: str, shard: int) -> pl.DataFrame:
    """Return the files that a shard of a run is to read: path, source, bytes, mtime and PLACES."""
    place = store.folder.full(_plan_name(run_id))
    with store.folder.filesystem.open_input_file(place) as file:
        rows = pl.from_arrow(pq.ParquetFile(file).read_row_group(shard))
    assert isinstance(rows, pl.DataFrame)  # a table never becomes a Series
    return rows


def shard_sizes(store: Store, run_id: str) -> list[int]:
    """Return how many files each shard of a run has."""
    with store.folder.filesystem.open_input_file(store.folder.full(_plan_name(run_id))) as file:
        held = pq.ParquetFile(file).metadata
        return [held.row_group(shard).num_rows for shard in range(held.num_row_groups)]


def finish_tars(store: Store, run_id: str) -> int:
    """Record those tars of a run of which every planned member was observed.

    A tar recorded before that, or with a member that waits, would be taken for read by the next
    run.

    Returns:
        How many were recorded.
    """
    data = store.get(_tars_name(run_id))
    if data is None:
        return 0
    rows, plan = pl.read_parquet(BytesIO(data)), store.get(_plan_name(run_id))
    if plan is not None:
        planned = pl.read_parquet(BytesIO(plan), columns=["path", "source"])
        own = [part for part in store.parts("files") if part.startswith(f"{run_id}-")]
        observed = store.read("files", ["path"], own)
        left = planned.join(observed, on="path", how="anti")["source"].unique()
        rows = rows.filter(~pl.col("path").is_in(left.implode()))
    if len(rows):
        observe(store, f"{run_id}-tars", rows.drop("seen_at"), run_id, rows["seen_at"][0])
    return len(rows)


def discard_plans(store: Store) -> None:
    """Remove plans that every shard has followed, or whose run was interrupted."""
    for name in store.folder.names(PLANS):
        store.delete(f"{PLANS}/{name}")


def _warn_of_empty(store: Store, changes: Changes) -> None:
    """A disk that is not mounted looks like a folder from which all was deleted."""
    if not len(changes.gone):
        return
    present = current_files(store, ["source", "status"]).filter(pl.col("status") == "ok")
    left = present["source"].value_counts(name="held")
    gone = changes.gone["source"].value_counts(name="went").join(left, on="source")
    emptied = gone.filter(pl.col("went") >= pl.col("held"))
    emptied = emptied.join(changes.to_read, on="source", how="anti")  # all renamed is not emptied
    for source, went, _ in emptied.iter_rows():
        logger.warning(
            "%s is empty now: its %d images are recorded as gone. If it was only not mounted, a "
            "later run takes them back without embedding them again",
            source,
            went,
        )


def observe(store: Store, part: str, seen: pl.DataFrame, run_id: str, now: datetime) -> None:
    """Commit observations of files that were not read: columns of FILES, as far as not given."""
    rows = seen.with_columns(
        image_id=pl.lit(None, pl.String), run_id=pl.lit(run_id), seen_at=pl.lit(now)
    )
    store.write_part("files", part, rows.select(FILES.names).to_arrow().cast(FILES))


def _with_places(rows: pl.DataFrame) -> pl.DataFrame:
    absent = [pl.lit(None, dtype).alias(c) for c, dtype in PLACES.items() if c not in rows.columns]
    return rows.with_columns(absent)


def _put(store: Store, name: str, rows: pl.DataFrame, shard_rows: int) -> None:
    """Write rows so that a shard can read its own alone: one row group each."""
    buffer = BytesIO()
    pq.write_table(rows.to_arrow(), buffer, row_group_size=shard_rows)
    store.put(name, buffer.getbuffer())


def _plan_name(run_id: str) -> str:
    return f"{PLANS}/{run_id}.parquet"


def _tars_name(run_id: str) -> str:
    return f"{PLANS}/{run_id}-tars.parquet"
