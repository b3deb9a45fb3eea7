"""Shards on their way into the store: what was seen of their files, the vectors they wait for."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.arrays import Halves
from pipeline.clip.protocol import Encoded, ImageEncoder
from pipeline.identity import digest
from pipeline.images.decoding import Refusal
from pipeline.images.looking import Seen
from pipeline.images.reading import Planned, planned
from pipeline.images.scan import read_shard
from pipeline.store import Store
from pipeline.tables import FILES, SIDE_INFO, embeddings
from pipeline.vectors import to_column


@dataclass(frozen=True)
class _Owed:
    """An image that is embedded here; the fields are its columns."""

    image_id: str
    width: int
    height: int
    format: str


class Shard:
    """The files of one shard of a run."""

    def __init__(self, run_id: str, number: int, plan: pl.DataFrame) -> None:
        """Begin with the plan's rows for this shard."""
        self.run_id, self.part, self.plan = run_id, f"{run_id}-{number:05d}", plan
        self.seen: list[Seen] = []  # without pixels
        self.refused: dict[str, Refusal] = {}  # by image id: found out too late for `add`
        self._pictures: list[_Owed] = []
        self._vectors: list[Halves] = []
        self._missing = 0

    def add(self, seen: Seen, *, new: bool) -> None:
        """Take the next file; a new one is owed a vector."""
        picture = seen.picture
        if new and picture is not None:
            about = picture.width, picture.height, picture.format
            self._pictures.append(_Owed(str(seen.image_id), *about))
            self._missing += 1
        self.seen.append(replace(seen, picture=None))

    def take(self, batch: Encoded, start: int) -> int:
        """Take as many rows of a batch, from `start`, as are owed; return how many."""
        rows = slice(start, start + self._missing)
        vectors = batch.vectors[rows]
        if len(vectors):
            self._vectors.append(vectors.astype(np.float16))
            owed = self._pictures[len(self._pictures) - self._missing :]
            for picture, refusal in zip(owed, batch.refused[rows], strict=False):
                if refusal is not None:
                    self.refused[picture.image_id] = refusal
            self._missing -= len(vectors)
        return len(vectors)

    def turn_away(self, refused: Mapping[str, Refusal]) -> None:
        """Record what was refused after it was added, and its copies, as what it is."""
        for number, seen in enumerate(self.seen if refused else ()):
            refusal = refused.get(str(seen.image_id))
            if refusal is not None and seen.status == "ok":
                self.seen[number] = replace(seen, **vars(refusal), side=None)
        if not self.refused:
            return
        kept = [picture.image_id not in self.refused for picture in self._pictures]
        self._vectors = [np.concatenate(self._vectors)[kept]]
        self._pictures = [p for p, keep in zip(self._pictures, kept, strict=True) if keep]

    def all_seen(self) -> bool:
        """Tell whether every file of the plan was looked at."""
        return len(self.seen) == len(self.plan)

    def whole(self) -> bool:
        """Tell whether nothing is missing any more."""
        return self.all_seen() and not self._missing

    def counts(self) -> Counter[str]:
        """Count files by what became of them, and how many images are `embedded` here."""
        counts = Counter(seen.status for seen in self.seen)
        counts["embedded"] = len(self._pictures)
        return counts

    def write(self, store: Store, encoder: ImageEncoder, now: datetime) -> None:
        """Commit vectors, then what points at them."""
        if self._pictures:
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
            [picture.image_id for picture in self._pictures],
            [picture.width for picture in self._pictures],
            [picture.height for picture in self._pictures],
            [picture.format for picture in self._pictures],
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
        self._commit, self._failed = commit, False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._under_way: deque[Future[None]] = deque()

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
        self._under_way.append(self._pool.submit(self._write, shard))

    def _write(self, shard: Shard) -> None:
        if self._failed:  # later shards may know images whose vectors were not written
            return
        self._failed = True
        self._commit(shard)
        self._failed = False


class ShardQueue:
    """The shards of a run, oldest first; each goes to the writer when nothing of it is missing."""

    def __init__(self, store: Store, run_id: str, numbers: Iterable[int], writer: Writer) -> None:
        """Read no plan yet."""
        self.totals: Counter[str] = Counter()  # as `Shard.counts`, of those that are whole
        self._store, self._run_id, self._numbers, self._writer = store, run_id, numbers, writer
        self._shards: deque[Shard] = deque()
        self._refused: dict[str, Refusal] = {}  # by image id; of all shards that are whole

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

    def take(self, batches: Iterable[Encoded]) -> int:
        """Take vectors, batch by batch, as they became owed; return how many were refused."""
        refused = 0
        for batch in batches:
            taken = 0
            for shard in self._shards:
                taken += shard.take(batch, taken)
            refused += sum(refusal is not None for refusal in batch.refused)
            self._pass_on()
        return refused

    def _pass_on(self) -> None:
        while self._shards and self._shards[0].whole():
            shard = self._shards.popleft()
            self._refused |= shard.refused
            shard.turn_away(self._refused)
            self.totals.update(shard.counts())
            self._writer.write(shard)
