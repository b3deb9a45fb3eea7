"""Shards on their way into the store: what was seen of their files, the vectors they wait for."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.arrays import Floats, Halves
from pipeline.clip.protocol import ImageEncoder
from pipeline.identity import digest
from pipeline.images.decoding import Picture
from pipeline.images.looking import Seen
from pipeline.images.reading import Planned, planned
from pipeline.images.scan import read_shard
from pipeline.store import Store
from pipeline.tables import FILES, SIDE_INFO, embeddings
from pipeline.vectors import to_column

_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


class Shard:
    """The files of one shard of a run."""

    def __init__(self, run_id: str, number: int, plan: pl.DataFrame) -> None:
        """Begin with the plan's rows for this shard."""
        self.run_id, self.part, self.plan = run_id, f"{run_id}-{number:05d}", plan
        self.seen: list[Seen] = []  # without pixels
        self.pictures: list[tuple[str, Picture]] = []  # that are embedded here, without pixels
        self._vectors: list[Halves] = []
        self._missing = 0

    def add(self, seen: Seen, *, new: bool) -> None:
        """Take the next file; a new one is owed a vector."""
        if new and seen.picture is not None:
            about = replace(seen.picture, pixels=_NO_PIXELS)
            self.pictures.append((str(seen.image_id), about))
            self._missing += 1
        self.seen.append(replace(seen, picture=None))

    def take(self, vectors: Floats) -> int:
        """Take as many vectors as are owed; return how many."""
        count = min(self._missing, len(vectors))
        if count:
            self._vectors.append(vectors[:count].astype(np.float16))
            self._missing -= count
        return count

    def all_seen(self) -> bool:
        """Tell whether every file of the plan was looked at."""
        return len(self.seen) == len(self.plan)

    def whole(self) -> bool:
        """Tell whether nothing is missing any more."""
        return self.all_seen() and not self._missing

    def counts(self) -> Counter[str]:
        """Count files by what became of them, and how many images are `embedded` here."""
        counts = Counter(seen.status for seen in self.seen)
        counts["embedded"] = len(self.pictures)
        return counts

    def write(self, store: Store, encoder: ImageEncoder, now: datetime) -> None:
        """Commit vectors, then what points at them."""
        if self.pictures:
            rows = self._embeddings()
            made_of = digest([vars(encoder.identity), rows["image_id"].to_pylist()])
            store.write_part("embeddings", self.part, rows, made_of)
        self._vectors.clear()
        side = self._side_rows()
        if len(side):
            store.write_part("side_info", self.part, side)
        observed = self._observations(now)
        if len(observed):
            store.write_part("files", self.part, observed)

    def _embeddings(self) -> pa.Table:
        vectors = np.concatenate(self._vectors)
        columns = [
            [image_id for image_id, _ in self.pictures],
            [picture.width for _, picture in self.pictures],
            [picture.height for _, picture in self.pictures],
            [picture.format for _, picture in self.pictures],
            to_column(vectors),
        ]
        return pa.table([pa.array(c) for c in columns], schema=embeddings(vectors.shape[1]))

    def _observations(self, now: datetime) -> pa.Table:
        rows = self.plan.with_columns(
            pl.Series("image_id", [seen.image_id for seen in self.seen], pl.String),
            pl.Series("status", [seen.status for seen in self.seen], pl.String),
            pl.Series("reason", [seen.reason for seen in self.seen], pl.String),
            run_id=pl.lit(self.run_id),
            seen_at=pl.lit(now),
        ).filter(pl.col("status") != "waiting")
        return rows.select(FILES.names).to_arrow().cast(FILES)

    def _side_rows(self) -> pa.Table:
        """Return the rows of `side_info`."""
        rows = [
            {"path": path, "image_id": seen.image_id, **vars(seen.side), "run_id": self.run_id}
            for path, seen in zip(self.plan["path"], self.seen, strict=True)
            if seen.side is not None
        ]
        return pa.Table.from_pylist(rows, SIDE_INFO)


class Writer:
    """Commits shards in order beside all else, one waiting at most, so that memory stays flat."""

    def __init__(self, commit: Callable[[Shard], None]) -> None:
        """Call `commit` with each shard."""
        self._commit = commit
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._under_way: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()  # what is whole is committed, whatever else went wrong
        while kind is None and self._under_way:
            self._under_way.popleft().result()

    def write(self, shard: Shard) -> None:
        """Have a shard committed; wait while another one waits already.

        Raises what committing one before has raised.
        """
        while len(self._under_way) > 1:
            self._under_way.popleft().result()
        self._under_way.append(self._pool.submit(self._next, shard))

    def _next(self, shard: Shard) -> None:
        # What waits behind a shard that failed may point at vectors that it was to bring.
        if self._failed:
            return
        self._failed = True
        self._commit(shard)
        self._failed = False


class ShardQueue:
    """The shards of a run, oldest first; each goes to the writer when nothing of it is missing."""

    def __init__(self, store: Store, run_id: str, numbers: Sequence[int], writer: Writer) -> None:
        """Read no plan yet."""
        self.totals: Counter[str] = Counter()  # as `Shard.counts`, of those that are whole
        self._store, self._run_id, self._numbers, self._writer = store, run_id, numbers, writer
        self._shards: deque[Shard] = deque()

    def rows(self) -> Iterator[Planned]:
        """Yield the files of all shards, reading a plan when it is reached."""
        for number in self._numbers:
            shard = Shard(self._run_id, number, read_shard(self._store, self._run_id, number))
            self._shards.append(shard)
            yield from planned(shard.plan)

    def add(self, seen: Seen, *, new: bool) -> None:
        """Take the next of the `rows`; a new one is owed a vector."""
        shard = next(shard for shard in self._shards if not shard.all_seen())
        shard.add(seen, new=new)
        self._pass_on()

    def take(self, vectors: Iterable[Floats]) -> None:
        """Take vectors, batch by batch, in the order in which they became owed."""
        for batch in vectors:
            taken = 0
            for shard in self._shards:
                taken += shard.take(batch[taken:])
            self._pass_on()

    def _pass_on(self) -> None:
        while self._shards and self._shards[0].whole():
            self.totals.update(self._shards[0].counts())
            self._writer.write(self._shards.popleft())
