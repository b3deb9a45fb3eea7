"""Arrivals: what a run saw in each source, told from the diary of files alone.

So it can be told of any run at any time: nothing is ever taken out of the diary.
"""

import re
from dataclasses import dataclass

import polars as pl

from pipeline.store import Store

_SHOWN_PATHS = 3  # of each kind of failure
_COLUMNS = ["path", "source", "image_id", "status", "reason", "run_id"]


@dataclass(frozen=True)
class SourceLine:
    """What a run saw of a source; numbers of files."""

    source: str
    new: int
    changed: int  # or seen again, after they could not be read
    gone: int
    unreadable: int
    ignored: int  # not images, nor named as such


@dataclass(frozen=True)
class Failure:
    """Files of a run that could not be read, for reasons of one kind."""

    kind: str  # the reason without numbers and names
    files: int
    examples: list[tuple[str, str]]  # path and reason


@dataclass(frozen=True)
class Arrivals:
    """What a run saw."""

    sources: list[SourceLine]  # those with the most files first
    failures: list[Failure]  # the most frequent kind first
    known: int  # files that were read, and whose image the store had already
    images: list[str]  # ids of the drop: images never seen before this run; in order of ids
    paths: list[str]  # of each of them, the first in alphabetical order
    later: list[str]  # ids of images that were first seen after this run

    def total(self, what: str) -> int:
        """Return the sum of a column over all sources."""
        return sum(getattr(line, what) for line in self.sources)


def arrivals(store: Store, run_id: str) -> Arrivals:
    """Tell what a run saw."""
    diary = store.read("files", _COLUMNS)  # in order of time: later runs have later names
    own = diary.filter(pl.col("run_id") == run_id).unique("path", keep="last", maintain_order=True)
    before = diary.filter(pl.col("run_id") < run_id)
    again = own.select("path").join(before.select("path"), on="path", how="semi")
    own = own.with_columns(again=pl.col("path").is_in(again["path"].implode()))
    read = own.filter(pl.col("status") == "ok")
    held = before.filter(pl.col("status") == "ok")
    fresh = read.join(held, on="image_id", how="anti")
    images = fresh.group_by("image_id").agg(pl.col("path").min()).sort("image_id")
    after = diary.filter((pl.col("run_id") > run_id) & (pl.col("status") == "ok"))
    later = after.select("image_id").unique()
    later = later.join(held, on="image_id", how="anti").join(read, on="image_id", how="anti")
    return Arrivals(
        sources=_sources(own),
        failures=failures(own),
        known=len(read) - len(images),
        images=images["image_id"].to_list(),
        paths=images["path"].to_list(),
        later=later["image_id"].to_list(),
    )


def failures(files: pl.DataFrame) -> list[Failure]:
    """Sort the unreadable ones of some files (path, status, reason) by the kind of reason."""
    failed = files.filter(pl.col("status") == "unreadable").with_columns(
        pl.col("reason").fill_null("")
    )
    kinds = failed.with_columns(
        kind=pl.col("reason").map_elements(kind_of, return_dtype=pl.String)
    ).sort("path")
    rows = (
        kinds.group_by("kind")
        .agg(
            pl.len().alias("files"),
            pl.col("path").head(_SHOWN_PATHS),
            pl.col("reason").head(_SHOWN_PATHS),
        )
        .sort(["files", "kind"], descending=[True, False])
    )
    return [
        Failure(kind, count, list(zip(paths, reasons, strict=True)))
        for kind, count, paths, reasons in rows.iter_rows()
    ]


def kind_of(reason: str) -> str:
    """Take out of a reason what differs from file to file.

    >>> kind_of("OSError: image file is truncated (17 bytes not processed)")
    'OSError: image file is truncated (# bytes not processed)'
    >>> kind_of("cannot open '/data/a.png'")
    "cannot open '…'"
    """
    kind = re.sub(r"(['\"]).*?\1", r"\1…\1", reason)
    kind = re.sub(r"\S*/\S+", "…", kind)
    kind = re.sub(r"\b0x[0-9a-fA-F]+\b|\d+(?:\.\d+)?", "#", kind)
    return kind[:80] or "no reason was recorded"


def _sources(own: pl.DataFrame) -> list[SourceLine]:
    read, again = pl.col("status") == "ok", pl.col("again")
    rows = (
        own.filter(pl.col("status").is_in(["ok", "gone", "unreadable", "ignored"]))
        .group_by("source")
        .agg(
            (read & ~again).sum().alias("new"),
            (read & again).sum().alias("changed"),
            *((pl.col("status") == name).sum().alias(name) for name in _OTHERS),
            pl.len().alias("files"),
        )
        .sort(["files", "source"], descending=[True, False])
        .drop("files")
    )
    return [SourceLine(*row) for row in rows.iter_rows()]


_OTHERS = ("gone", "unreadable", "ignored")
