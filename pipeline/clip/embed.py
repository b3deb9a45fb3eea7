"""Embed: the files of one shard in, one part of unit vectors out.

Threads read, hash and decode while the model works on the batch before. A bad file becomes a row
with a reason; it never takes its batch with it.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.arrays import Halves
from pipeline.clip.protocol import ImageEncoder
from pipeline.identity import digest
from pipeline.images.decoding import Fit, Picture, Refusal, decode, image_id, may_be_image
from pipeline.images.scan import read_shard
from pipeline.images.sources import local_path
from pipeline.store import Store
from pipeline.tables import FILES, embeddings
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


@dataclass(frozen=True)
class _Seen:
    """One file after reading: its identity, and its picture unless the bytes were known."""

    image_id: str | None
    outcome: Picture | Refusal | None


def embed_shard(
    store: Store,
    run_id: str,
    shard: int,
    encoder: ImageEncoder,
    *,
    now: datetime,
    batch_size: int,
    max_pixels: int,
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
        now: the time of observation, with time zone.
        batch_size: images per forward pass.
        max_pixels: larger pictures are refused.
        threads: that read and decode; 0: one per core.
        on_progress: told after each batch.

    Raises:
        InputError: the store holds embeddings of another encoder.
    """
    store.claim(encoder.identity)
    plan = read_shard(store, run_id, shard)
    part = f"{run_id}-{shard:05d}"
    known = set(store.read("embeddings", ["image_id"])["image_id"])
    threads = threads or os.cpu_count() or 1

    def look(path: str) -> _Seen:
        return _look(path, known, encoder.fit, max_pixels)

    batch = _Batch(encoder, batch_size)
    statuses: list[tuple[str | None, str, str | None]] = []  # image id, status, reason
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        # The window bounds memory: decoded pictures wait for at most one batch beyond the present.
        window = batch_size + 2 * threads
        told = 0
        for seen in _in_order(pool, look, plan["path"].to_list(), window):
            statuses.append(_status(seen))
            if isinstance(seen.outcome, Picture) and seen.image_id not in known:
                known.add(str(seen.image_id))
                batch.add(str(seen.image_id), seen.outcome)
            if len(statuses) - told >= batch_size:
                on_progress(len(statuses) - told, _failed(statuses[told:]))
                told = len(statuses)
        on_progress(len(statuses) - told, _failed(statuses[told:]))
    rows = batch.finish()
    if rows is not None:
        made_of = digest([vars(encoder.identity), rows["image_id"].to_pylist()])
        store.write_part("embeddings", part, rows, made_of)
    store.write_part("files", part, _observations(plan, statuses, run_id, now))
    counts = {status: sum(s == status for _, s, _ in statuses) for status in ("ok", "ignored")}
    embedded = 0 if rows is None else len(rows)
    return EmbedSummary(
        part=part,
        files=len(statuses),
        embedded=embedded,
        known=counts["ok"] - embedded,
        unreadable=_failed(statuses),
        ignored=counts["ignored"],
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


def _look(path: str, known: set[str], fit: Fit, max_pixels: int) -> _Seen:
    """Read one file; decode it unless its bytes are known."""
    try:
        with open(local_path(path), "rb") as file:
            head = file.read(32)
            if not may_be_image(path, head):
                return _Seen(None, Refusal("ignored", "not an image"))
            data = head + file.read()
    except OSError as error:
        return _Seen(None, Refusal("unreadable", f"cannot be read: {error.strerror}"))
    identity = image_id(data)
    if identity in known:
        return _Seen(identity, None)
    return _Seen(identity, decode(data, path, fit, max_pixels=max_pixels))


def _status(seen: _Seen) -> tuple[str | None, str, str | None]:
    if isinstance(seen.outcome, Refusal):
        return seen.image_id, seen.outcome.status, seen.outcome.reason
    return seen.image_id, "ok", None


def _failed(statuses: list[tuple[str | None, str, str | None]]) -> int:
    return sum(status == "unreadable" for _, status, _ in statuses)


def _observations(
    plan: pl.DataFrame,
    statuses: list[tuple[str | None, str, str | None]],
    run_id: str,
    now: datetime,
) -> pa.Table:
    ids, states, reasons = zip(*statuses, strict=True)
    rows = plan.with_columns(
        pl.Series("image_id", ids, pl.String),
        pl.Series("status", states, pl.String),
        pl.Series("reason", reasons, pl.String),
        run_id=pl.lit(run_id),
        seen_at=pl.lit(now),
    )
    return rows.select(FILES.names).to_arrow().cast(FILES)


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
