"""A listing and what was seen before in; what is new, changed, gone or waiting out.

Plain Polars: nothing here touches a disk or a network.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from pipeline.images.folders import UNLISTED
from pipeline.images.objects import NOT_FETCHED
from pipeline.images.paths import is_url, local_path
from pipeline.images.shards import matches
from pipeline.images.tars import SHARD

TAR_ROWS: dict[str, type[pl.DataType] | pl.DataType] = {
    "path": pl.String,
    "source": pl.String,
    "bytes": pl.Int64,
    "mtime": pl.Datetime("ns", "UTC"),
    "reason": pl.String,
    "status": pl.String,
}
_YOUNG = {name: TAR_ROWS[name] for name in ("path", "mtime")}
_NOT_FETCHED = pl.col("reason").fill_null("").str.starts_with(NOT_FETCHED)
_DIFFERS = (pl.col("bytes") != pl.col("bytes_known")) | (pl.col("mtime") != pl.col("mtime_known"))


@dataclass(frozen=True)
class Rules:
    """What decides whether a file is read now."""

    now: datetime  # with time zone
    settle_seconds: float  # a new or changed local file younger than this waits
    retry_failed: bool = False  # also take unreadable files that have not changed

    @property
    def again(self) -> pl.Expr:
        """Whether a file is read again that has not changed.

        A file that failed is not, but for trouble on the way to it. One whose vector was lost is.
        """
        failed = (pl.col("status") == "unreadable") & (_NOT_FETCHED | pl.lit(self.retry_failed))
        return failed | (pl.col("status") == "lost")

    @property
    def young(self) -> pl.Expr:
        """Whether a file may still be growing; an object appears whole.

        A file dated far in the future is not young: it would wait for that day. A day is more than
        the clock of a file server goes wrong.
        """
        mtime, settled_before = pl.col("mtime"), self.now - timedelta(seconds=self.settle_seconds)
        local = pl.col("path").str.starts_with("/") | pl.col("path").str.starts_with("file://")
        return local & (mtime > settled_before) & (mtime <= self.now + timedelta(days=1))


@dataclass(frozen=True)
class Tars:
    """What the tars among the sources add to a comparison."""

    listed: list[str] = field(default_factory=list)  # all that are there, opened or not
    emptied: list[str] = field(default_factory=list)  # opened whole: other members are gone
    renewed: list[str] = field(default_factory=list)  # changed: every member is read again


@dataclass(frozen=True)
class Changes:
    """The difference between a listing and the store; frames have the columns of a listing."""

    to_read: pl.DataFrame  # new or changed, and openable
    problems: pl.DataFrame  # new or changed, and not openable
    gone: pl.DataFrame  # seen by an earlier run, not there now
    listed: int
    new: int
    changed: int
    waiting: int  # too young to be trusted complete; a tar counts as one
    tars: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=TAR_ROWS))
    # Tars opened for this; recorded only when their members were observed.
    young: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_YOUNG))  # that wait

    @property
    def any(self) -> bool:
        """Whether a run has anything to read or to record."""
        return any(len(rows) for rows in (self.to_read, self.problems, self.gone, self.tars))


def compare(
    listing: pl.DataFrame,
    known: pl.DataFrame,
    *,
    scanned: list[str],
    rules: Rules,
    tars: Tars | None = None,
) -> Changes:
    """Compare a listing with the last observation of each path.

    Args:
        listing: files as `list_sources` lists them, and the members of the tars that were opened.
        known: path, source, bytes, mtime, status and reason of every path seen before.
        scanned: the sources listed, as `source_root` returns them; what lies elsewhere is not gone
            for not being there.
        rules: what decides whether a file is read now.
        tars: what was found out about the tars among the sources.
    """
    tars = tars or Tars()
    if tars.listed:  # their own rows are judged by `judge_tars`
        known = known.filter(~pl.col("path").is_in(tars.listed))
    # Five narrow columns: the join copies a row of them for every file of the listing.
    before = known.select(
        "path",
        pl.col("bytes", "mtime").name.suffix("_known"),
        is_there=pl.col("status") != "gone",
        again=rules.again,
    )
    both = listing.join(before, on="path", how="left")
    renewed = pl.col("source").is_in(tars.renewed) if tars.renewed else pl.lit(False)
    is_new = ~pl.col("is_there").fill_null(False)
    candidates = both.lazy().with_columns(is_new=is_new)
    candidates = candidates.filter(pl.col("is_new") | _DIFFERS | pl.col("again") | renewed)
    taken = candidates.collect().with_columns(young=rules.young.fill_null(False))
    settled = taken.filter(~pl.col("young"))
    missing = known.filter(pl.col("status") != "gone").join(listing, on="path", how="anti")
    gone = _gone(missing, listing, scanned, tars)
    return Changes(
        to_read=settled.filter(pl.col("problem").is_null()).select(listing.columns),
        problems=settled.filter(pl.col("problem").is_not_null()).select(listing.columns),
        gone=gone.select("path", "source", "bytes", "mtime", problem=pl.lit("no longer there")),
        listed=len(listing) + _members_kept(missing, tars),
        new=int(settled["is_new"].sum()),
        changed=int((~settled["is_new"]).sum()),
        waiting=len(taken) - len(settled),
        young=taken.filter("young").select(*_YOUNG),
    )


def judge_tars(tars: pl.DataFrame, known: pl.DataFrame, rules: Rules) -> pl.DataFrame:
    """Find out which tars are to be opened.

    Args:
        tars: as `list_tars` lists them.
        known: as for `compare`.
        rules: what decides whether a file is read now.

    Returns:
        The tars with the columns `opens`, `waits` and `renewed`: seen before, and changed since.
    """
    if not len(tars):
        return tars.with_columns(opens=False, waits=False, renewed=False)
    own = known.filter(pl.col("path").is_in(tars["path"].implode()))
    # A tar that an earlier run saw as a file in a folder was not looked into.
    is_tar = (pl.col("status") == SHARD) | (
        (pl.col("status") == "unreadable")
        & pl.col("source").str.to_lowercase().str.ends_with(".tar")
    )
    before = own.select(
        "path",
        pl.col("bytes", "mtime").name.suffix("_known"),
        again=rules.again,
        is_tar=is_tar,
        unseen=_NOT_FETCHED,
    )
    failed = known.filter(rules.again & pl.col("source").is_in(tars["path"].implode()))["source"]
    is_tar = pl.col("is_tar").fill_null(False)
    same = is_tar & ~_DIFFERS.fill_null(True)
    again = (pl.col("again") & is_tar) | pl.col("path").is_in(failed.unique().implode())
    return (
        tars.join(before, on="path", how="left")
        .with_columns(same=same, renewed=is_tar & (~same | pl.col("unseen")))
        .with_columns(waits=~pl.col("same") & rules.young.fill_null(False))
        .with_columns(opens=~pl.col("waits") & (~pl.col("same") | again.fill_null(False)))
        .select(*tars.columns, "opens", "waits", "renewed")
    )


def _gone(
    missing: pl.DataFrame, listing: pl.DataFrame, scanned: list[str], tars: Tars
) -> pl.DataFrame:
    """Return the missing files that are known to be gone, and the members of tars that are."""
    # What lies below a folder that could not be listed is not known to be gone.
    unlisted = listing.filter(pl.col("problem").str.starts_with(UNLISTED))["path"].to_list()
    own = lies_below(scanned) & ~lies_below(unlisted)
    was_tar = pl.col("status").is_in([SHARD, "unreadable", "lost"])
    was_tar &= pl.col("path").str.to_lowercase().str.ends_with(".tar")
    was_tar &= ~pl.col("path").str.starts_with("tar")  # a member's path ends with its tar's
    shards = missing.filter(was_tar)["path"]
    named = [tar for tar in shards if any(matches(pattern, tar) for pattern in scanned)]
    if named:
        own |= pl.col("path").is_in(named)
    gone = missing.filter(own)
    went = gone.filter(was_tar)["path"].to_list()
    if went or tars.emptied:
        gone = missing.filter(own | pl.col("source").is_in([*went, *tars.emptied]))
    return gone


def _members_kept(missing: pl.DataFrame, tars: Tars) -> int:
    """Count the members of tars that were not opened: they are as they were."""
    if not tars.listed:
        return 0
    kept = pl.col("source").is_in(tars.listed) & ~pl.col("source").is_in(tars.emptied)
    return len(missing.filter(kept))


def lies_below(folders: list[str]) -> pl.Expr:
    """Tell whether a path lies below one of the folders, however `path_text` wrote it."""
    texts = [folder.rstrip("/") + "/" for folder in folders]
    local = [folder for folder in folders if not is_url(folder)]
    texts += [Path(local_path(folder)).as_uri().rstrip("/") + "/" for folder in local]
    return pl.any_horizontal(
        pl.lit(False), *(pl.col("path").str.starts_with(text) for text in texts)
    )
