"""A damaged file is set aside, and an account is kept of what must be made again.

Everything but the observations and the vectors is made of those two, so it is enough to move it out
of the way. Where vectors went, their files are recorded as `lost`: the next run reads them again.
"""

import json
from bisect import bisect_right
from datetime import UTC, datetime

import polars as pl

from pipeline.errors import ANSWERED_AGAIN, DamagedFileError
from pipeline.parts import span
from pipeline.runs import new_run_id
from pipeline.store import FORMAT, IDENTITY, STORE, Store, part_name
from pipeline.tables import FILES

LOST = "what was made of it is damaged; the next run reads it again"
_CACHES = ("cache", "index")


def set_aside(store: Store, name: str, *, now: datetime) -> str:
    """Move a damaged file to `damaged/`, so that it is made again.

    Args:
        store: the store; its lock must be held.
        name: of the file.
        now: the present, with time zone.

    Returns:
        What was done, in words.
    """
    table, _, file = name.rpartition("/")
    part = file.removesuffix(".parquet")
    if name == IDENTITY:
        store.put_json(IDENTITY, restored_identity(store))
        return "made again from what the parts say"
    if table.split("/")[0] in _CACHES:
        store.delete(name)
        if table == "index":
            store.delete("index/current.json")  # its files are only ever used together
        return "removed: a cache is made again when it is needed"
    if table == "embeddings":
        # First the account, then the move: after a crash in between this is done once more.
        record_lost(store, now=now, without=part)
        for derived in _derived(store, part):
            store.delete(derived)
    elif table == "side_info":
        _record(store, pl.col("path").str.starts_with("tar"), now=now)  # members, to be read again
    elif table == "files":
        # An unchanged tar is not opened, so its members would not be found again.
        _record(store, pl.col("status") == "shard", now=now, without=part)
    place = f"damaged/{now.astimezone(UTC):%Y%m%dT%H%M%S%f}"
    # A head's two files are only ever used together.
    together = store.folder.names(table) if table.startswith("models/") else [file]
    for each in (f"{table}/{other}" for other in together):
        _move(store, each, f"{place}/{each}")
    lost = f"; take its answers again: {ANSWERED_AGAIN}" if table.startswith("audits/") else ""
    return f"moved to {place}/{name}{lost}"


def restored_identity(store: Store) -> dict[str, object]:
    """Return the content of store.json as the parts tell it."""
    for part in store.parts("embeddings"):
        try:
            about = store.about("embeddings", part) or {}
        except DamagedFileError:
            continue
        held = json.loads(about.get(STORE, "{}"))
        if isinstance(held, dict) and held.get("encoder"):
            return held
    return {"format": FORMAT}


def record_lost(store: Store, *, now: datetime, without: str | None = None) -> int:
    """Record as lost each file whose image has no vector in the store.

    Args:
        store: the store; its lock must be held.
        now: the present, with time zone.
        without: a part of `embeddings` that does not count.

    Returns:
        How many files were recorded.
    """
    held: set[str] = set()
    for part in store.parts("embeddings"):
        if part == without:
            continue
        try:
            held.update(store.read("embeddings", ["image_id"], [part])["image_id"])
        except DamagedFileError:  # what it held is recorded now, and it is set aside in its turn
            continue
    bare = (pl.col("status") == "ok") & ~pl.col("image_id").is_in(list(held))
    return _record(store, bare, now=now)


def _record(store: Store, which: pl.Expr, *, now: datetime, without: str | None = None) -> int:
    """Record files as lost, and the shards they lie in, so that those are opened again.

    Args:
        store: the store.
        which: those among the files that are readable, or are shards themselves.
        now: the present, with time zone.
        without: a part of `files` that does not count.
    """
    parts = []
    for part in store.parts("files"):
        try:
            if part != without:
                parts.append(store.read("files", parts=[part]))
        except DamagedFileError:  # it is set aside in its turn, and what it held read again
            continue
    files = pl.concat(parts).unique("path", keep="last", maintain_order=True) if parts else None
    if files is None:
        return 0
    lost = files.filter(pl.col("status").is_in(["ok", "shard"]) & which)
    around = (pl.col("status") == "shard") & pl.col("path").is_in(lost["source"].implode())
    rows = pl.concat([lost, files.filter(around)]).unique("path")
    if len(rows):
        run_id = new_run_id(store, now)
        rows = rows.with_columns(
            image_id=pl.lit(None, pl.String),
            status=pl.lit("lost"),
            reason=pl.lit(LOST),
            run_id=pl.lit(run_id),
            seen_at=pl.lit(now),
        )
        store.write_part("files", f"{run_id}-lost", rows.select(FILES.names).to_arrow().cast(FILES))
    return len(lost)


def _move(store: Store, name: str, to: str) -> None:
    folder = store.folder
    folder.filesystem.create_dir(folder.full(to.rpartition("/")[0]), recursive=True)
    folder.filesystem.move(folder.full(name), folder.full(to))


def delete_orphans(store: Store) -> list[str]:
    """Delete the parts that were made of parts of `embeddings` which are there no more."""
    tables = sorted({name.rpartition("/")[0] for name in _derived(store, "")})
    found = [part_name(table, part) for table in tables for part in orphans(store, table)]
    for name in found:
        store.delete(name)
    return found


def orphans(store: Store, table: str) -> list[str]:
    """Return the parts of a table that were made of vectors which are gone; names tell it."""
    ends = {span(part)[0]: span(part)[1] for part in store.parts("embeddings")}
    firsts = sorted(ends)
    found = []
    for part in store.parts(table):
        first, last = span(part)
        at = bisect_right(firsts, first) - 1  # spans never overlap
        if at < 0 or last > ends[firsts[at]]:
            found.append(part)
    return found


def _derived(store: Store, part: str) -> list[str]:
    """Return the files that were made of a part of `embeddings` and bear its name; "": of any."""
    return [
        name
        for name in store.folder.sizes()
        if name.split("/")[0] in ("labels", "neighbours")
        and name.endswith(f"/{part}.parquet" if part else ".parquet")
    ]
