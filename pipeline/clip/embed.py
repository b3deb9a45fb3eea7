"""Embed: the files of one shard in, one part of unit vectors out.

Threads read and hash, processes decode, while the model works on the batch before. A bad file
becomes a row with a reason; it never takes its batch with it.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.arrays import Halves
from pipeline.clip.protocol import ImageEncoder
from pipeline.identity import digest
from pipeline.images.decoding import Decode, Picture, Refusal, image_id
from pipeline.images.paths import name_of
from pipeline.images.reading import Planned, Side, Waiting, planned, read_planned, read_side
from pipeline.images.scan import read_shard
from pipeline.store import Store
from pipeline.tables import FILES, SIDE_INFO, embeddings
from pipeline.vectors import to_column

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, int], None]  # files done since the last call, failed ones among them


def _untold(done: int, failed: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class EmbedSummary:
    """What became of the files of one shard."""

    part: str
    files: int
    embedded: int  # distinct images that were new to the store
    known: int  # files whose bytes the store held already
    unreadable: int
    ignored: int
    waiting: int  # changed while they were read; not recorded, so the next run reads them


@dataclass(frozen=True)
class _Seen:
    """One file after reading."""

    image_id: str | None
    status: str  # as in FILES, or waiting
    reason: str | None = None
    picture: Picture | None = None  # of bytes that were not known
    side: Side | None = None


def embed_shard(
    store: Store,
    run_id: str,
    shard: int,
    encoder: ImageEncoder,
    *,
    decode: Decode,
    now: datetime,
    batch_size: int,
    threads: int = 0,
    on_progress: Progress = _untold,
) -> EmbedSummary:
    """Read, hash, decode and embed the files that the plan of `run_id` gives to `shard`.

    The vectors are committed before the observations that point at them, so an interruption leaves
    at most vectors whose files are read again, and never a file without its vector.

    Args:
        store: the store to write to.
        run_id: the run whose plan is followed.
        shard: its number in the plan.
        encoder: the model; the store refuses one that is not its own.
        decode: makes pixels for this encoder, or says why not; called from many threads.
        now: the time of observation, with time zone.
        batch_size: images per forward pass.
        threads: that read and wait for pixels; 0: one per core.
        on_progress: told after each batch.

    Raises:
        InputError: the store holds embeddings of another encoder.
    """
    store.claim(encoder.identity)
    plan = read_shard(store, run_id, shard)
    part = f"{run_id}-{shard:05d}"
    known = set(store.read("embeddings", ["image_id"])["image_id"])
    threads = threads or os.cpu_count() or 1
    batch = _Batch(encoder, batch_size)
    everything: list[_Seen] = []
    with _readers(threads) as pool:
        # The window bounds memory: decoded pictures wait for at most one batch beyond the present.
        window, told = batch_size + 2 * threads, 0
        for seen in _in_order(pool, lambda row: _look(row, known, decode), planned(plan), window):
            if seen.picture is not None and seen.image_id not in known:
                known.add(str(seen.image_id))
                batch.add(str(seen.image_id), seen.picture)
            everything.append(replace(seen, picture=None))
            if len(everything) - told >= batch_size:
                on_progress(len(everything) - told, _count(everything[told:])["unreadable"])
                told = len(everything)
        on_progress(len(everything) - told, _count(everything[told:])["unreadable"])
    rows = batch.finish()
    if rows is not None:
        made_of = digest([vars(encoder.identity), rows["image_id"].to_pylist()])
        store.write_part("embeddings", part, rows, made_of)
    side = _side_rows(plan, everything, run_id)
    if len(side):
        store.write_part("side_info", part, side)
    observed = _observations(plan, everything, run_id, now)
    if len(observed):
        store.write_part("files", part, observed)
    counts = _count(everything)
    embedded = 0 if rows is None else len(rows)
    return EmbedSummary(
        part=part,
        files=len(everything),
        embedded=embedded,
        known=counts["ok"] - embedded,
        unreadable=counts["unreadable"],
        ignored=counts["ignored"],
        waiting=counts["waiting"],
    )


class _Batch:
    """Collects pictures, embeds them batch by batch, and keeps only vectors."""

    def __init__(self, encoder: ImageEncoder, size: int) -> None:
        self._encoder, self._size = encoder, size
        self._waiting: list[Picture] = []
        self._ids: list[str] = []
        self._about: list[tuple[int, int, str]] = []
        self._vectors: list[Halves] = []

    def add(self, identity: str, picture: Picture) -> None:
        self._ids.append(identity)
        self._about.append((picture.width, picture.height, picture.format))
        self._waiting.append(picture)
        if len(self._waiting) == self._size:
            self._embed()

    def finish(self) -> pa.Table | None:
        """Return the rows of `embeddings`; None when there was no picture."""
        if self._waiting:
            self._embed()
        if not self._ids:
            return None
        vectors = np.concatenate(self._vectors)
        widths, heights, formats = zip(*self._about, strict=True)
        columns = [self._ids, widths, heights, formats, to_column(vectors)]
        return pa.table([pa.array(c) for c in columns], schema=embeddings(vectors.shape[1]))

    def _embed(self) -> None:
        pixels = np.stack([picture.pixels for picture in self._waiting])
        self._vectors.append(self._encoder.encode_images(pixels).astype(np.float16))
        self._waiting.clear()


def _look(row: Planned, known: set[str], decode: Decode) -> _Seen:
    """Read one file; decode it unless its bytes are known."""
    data, side = read_planned(row), read_side(row)
    for trouble in (data, side):
        if isinstance(trouble, Waiting):
            return _Seen(None, "waiting", trouble.reason)
        if isinstance(trouble, Refusal):
            return _Seen(None, trouble.status, trouble.reason)
    assert isinstance(data, bytes) and not isinstance(side, Waiting | Refusal)  # as just tested
    identity = image_id(data)
    if identity in known:
        return _Seen(identity, "ok", side=side)
    outcome = decode(data, name_of(row.path))
    if isinstance(outcome, Refusal):
        return _Seen(identity, outcome.status, outcome.reason)
    return _Seen(identity, "ok", picture=outcome, side=side)


def _count(everything: list[_Seen]) -> Counter[str]:
    return Counter(seen.status for seen in everything)


def _observations(
    plan: pl.DataFrame, everything: list[_Seen], run_id: str, now: datetime
) -> pa.Table:
    rows = plan.with_columns(
        pl.Series("image_id", [seen.image_id for seen in everything], pl.String),
        pl.Series("status", [seen.status for seen in everything], pl.String),
        pl.Series("reason", [seen.reason for seen in everything], pl.String),
        run_id=pl.lit(run_id),
        seen_at=pl.lit(now),
    ).filter(pl.col("status") != "waiting")
    return rows.select(FILES.names).to_arrow().cast(FILES)


def _side_rows(plan: pl.DataFrame, everything: list[_Seen], run_id: str) -> pa.Table:
    """Return the rows of `side_info`."""
    rows = [
        {
            "path": path,
            "image_id": seen.image_id,
            **vars(seen.side),
            "run_id": run_id,
        }
        for path, seen in zip(plan["path"], everything, strict=True)
        if seen.side is not None
    ]
    return pa.Table.from_pylist(rows, SIDE_INFO)


@contextmanager
def _readers(count: int) -> Iterator[Executor]:
    """Run threads that leave undone, at Ctrl-C, what they had not begun."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="read")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: Executor, function: Callable[[T], R], items: Iterable[T], window: int
) -> Iterator[R]:
    """Map over a pool, results in the order of items, at most `window` of them under way."""
    under_way: deque[Future[R]] = deque()
    for item in items:
        if len(under_way) == window:
            yield under_way.popleft().result()
        under_way.append(pool.submit(function, item))
    while under_way:
        yield under_way.popleft().result()
