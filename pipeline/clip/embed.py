"""Embed: the files of a run's shards in, one part of unit vectors per shard out.

Threads read, hash and decode (or have a process do so), lanes of the model embed, one thread
writes, all at once: batches reach across shards, and a shard is committed when its last vector is
there.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime

from pipeline.clip.batches import Batches, BatchSize, pixels_to
from pipeline.clip.commits import Shard, ShardQueue, Writer
from pipeline.clip.protocol import Encode, ImageEncoder
from pipeline.clock import Clock
from pipeline.cores import cores
from pipeline.images.looking import DecodeOrLeave, look_through
from pipeline.store import Store

Progress = Callable[[int, int], None]  # files done since the last call, failed ones among them
_TOLD_EVERY = 0.2  # seconds


def _nothing(*_: int) -> None:
    """Tell nobody, check nothing."""


@dataclass(frozen=True)
class EmbedSummary:
    """What became of the files of a run."""

    files: int = 0
    embedded: int = 0  # distinct images that were new to the store
    known: int = 0  # files whose bytes the store held already
    unreadable: int = 0
    ignored: int = 0
    waiting: int = 0  # changed while they were read; not recorded, so the next run reads them
    batch_size: int = 0  # as asked for or found, in the end
    # Reading and decoding: of all threads together. Inference: lanes at work; waiting: lanes idle,
    # for want of data; on average over the lanes. Writing: beside the rest.
    seconds: dict[str, float] = field(default_factory=dict)

    def __add__(self, later: "EmbedSummary") -> "EmbedSummary":
        """Sum up with what a run did after it had begun anew."""
        counts = ("files", "embedded", "known", "unreadable", "ignored", "waiting")
        names = [*self.seconds, *(name for name in later.seconds if name not in self.seconds)]
        return EmbedSummary(
            **{name: getattr(self, name) + getattr(later, name) for name in counts},
            batch_size=later.batch_size or self.batch_size,
            seconds={n: self.seconds.get(n, 0.0) + later.seconds.get(n, 0.0) for n in names},
        )


def embed_shards(
    store: Store,
    run_id: str,
    shards: Iterable[int],
    encoder: ImageEncoder,
    *,
    decode: DecodeOrLeave,
    encode: Encode | None = None,
    now: datetime,
    batch_size: int = 0,
    threads: int = 0,
    check: Callable[[], None] = _nothing,
    on_progress: Progress = _nothing,
) -> EmbedSummary:
    """Read, hash, decode and embed the files that the plan of `run_id` gives to some shards.

    The vectors are committed before the observations that point at them, so an interruption leaves
    at most vectors whose files are read again, and never a file without its vector.

    Args:
        store: the store to write to.
        run_id: the run whose plan is followed.
        shards: their numbers in the plan; asked for one by one, as they are reached.
        encoder: the model; the store refuses one that is not its own.
        decode: makes pixels for this encoder, or says why not; called from many threads.
        encode: embeds what `decode` returns, where that may be undecoded; called by the lanes.
        now: the time of observation, with time zone.
        batch_size: images per forward pass; 0: found while running.
        threads: that read and wait for pixels; 0: one per core.
        check: called before each commit; what it raises ends the run.
        on_progress: told a few times a second.

    Raises:
        InputError: the store holds embeddings of another encoder.
    """
    store.claim(encoder.identity)
    started, clock, size = time.perf_counter(), Clock(), BatchSize(batch_size)
    known = _known(store, run_id)
    told = _Told(on_progress)

    def commit(shard: Shard) -> None:
        check()
        with clock("writing"):
            shard.write(store, encoder, now)

    with encoder.lanes() as lanes, Writer(commit) as writer:
        queue = ShardQueue(store, run_id, shards, writer)
        batches = Batches(encode or pixels_to(encoder), lanes, size, clock)
        looking = look_through(
            queue.rows(),
            known,
            decode,
            threads=threads or cores(),
            window=batches.window,
            clock=clock,
        )
        with closing(looking):
            for seen in looking:
                new = seen.picture is not None and seen.image_id not in known
                queue.add(seen, new=new)
                if new and seen.picture is not None:
                    known.add(str(seen.image_id))
                    told.failed(queue.take(batches.add(seen.picture)))
                told.one(failed=seen.status == "unreadable")
        told.failed(queue.take(batches.finish()))
        told.finish()
    wall = time.perf_counter() - started
    return _summary(queue.totals, size, clock, wall)


def _known(store: Store, run_id: str) -> set[str]:
    """Return the ids of images that need not be embedded.

    What a shard of this very run has left without its observations does not count: the shard is
    done again, and its part replaced whole.
    """
    parts = store.parts("embeddings")
    own = {part for part in parts if part.startswith(f"{run_id}-")}
    left = own - set(store.parts("files")) if own else own
    kept = [part for part in parts if part not in left]
    return set(store.read("embeddings", ["image_id"], kept)["image_id"])


class _Told:
    """Tells of progress, not too often."""

    def __init__(self, on_progress: Progress) -> None:
        self._on_progress = on_progress
        self._done = self._failed = 0
        self._last = time.monotonic()

    def one(self, *, failed: bool) -> None:
        self._done += 1
        self._failed += failed
        if time.monotonic() - self._last > _TOLD_EVERY:
            self.finish()

    def failed(self, count: int) -> None:
        """Tell, with the next files, of some that were counted as done before."""
        self._failed += count

    def finish(self) -> None:
        self._on_progress(self._done, self._failed)
        self._done = self._failed = 0
        self._last = time.monotonic()


def _summary(totals: Counter[str], size: BatchSize, clock: Clock, wall: float) -> EmbedSummary:
    spent = dict.fromkeys(("reading", "decoding", "inference", "writing"), 0.0)
    spent |= clock.seconds()
    return EmbedSummary(
        files=totals.total() - totals["embedded"],
        embedded=totals["embedded"],
        known=totals["ok"] - totals["embedded"],
        unreadable=totals["unreadable"],
        ignored=totals["ignored"],
        waiting=totals["waiting"],
        batch_size=size.size,
        seconds={**spent, "waiting": round(max(0.0, wall - spent["inference"]), 3)},
    )
