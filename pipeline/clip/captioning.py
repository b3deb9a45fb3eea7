"""Caption: the images of a store that have no caption yet in; parts of `captions` out.

Threads read, processes decode, the model writes. What is written is committed at the end of a
batch, every so many seconds, so that an interrupted run loses no more than that, and the next one
goes on with the very batch that was lost.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow as pa

from pipeline.captions import CaptionRun, current_captions, turn_to, uncaptioned
from pipeline.catalog import present_images
from pipeline.clip.captioner import Writer, Written
from pipeline.clock import Clock
from pipeline.identity import digest
from pipeline.images.decoding import Decode, Picture, image_id
from pipeline.images.looking import in_order, readers
from pipeline.images.objects import reason_of
from pipeline.images.paths import name_of
from pipeline.images.reading import read_bytes
from pipeline.runs import new_run_id
from pipeline.store import Store
from pipeline.tables import CAPTIONS

_READERS = 16  # threads that wait for files, which may be far away, and for pixels
_CHANGED = "has changed since the run that saw it: `pseudolabel run` looks again"


@dataclass(frozen=True)
class CaptionSummary:
    """What became of the images that had no caption."""

    table: str
    model: str
    captioned: int  # rows written now
    empty: int  # of them: the model wrote nothing of use
    known: int  # images that had a caption before
    failed: dict[str, int]  # images by why they could not be read; the next run tries them again
    left: int  # not tried, because of the limit
    in_force: bool  # whether readers take this table now
    seconds: dict[str, float] = field(default_factory=dict)  # `reading` is of all threads together


@dataclass(frozen=True)
class _Wanted:
    image_id: str
    paths: list[str]


def caption_images(
    store: Store,
    writer: Writer,
    *,
    decode: Decode,
    now: datetime,
    batch_size: int,
    limit: int = 0,
    commit_seconds: float = 60,
    check: Callable[[], None] = lambda: None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> CaptionSummary:
    """Write a caption for each image that has none of this model and way yet.

    The table is put in force when it leaves no more images without a caption than the one that is.

    Args:
        store: the store; its lock must be held.
        writer: the model.
        decode: makes pixels for this model, or says why not; called from many threads.
        now: the present, with time zone.
        batch_size: images that are written of at once, 1 or more.
        limit: images at most, in order of their paths; 0: all.
        commit_seconds: how much work an interruption may cost.
        check: called before each commit; what it raises ends the run.
        on_progress: told of images done since the last call, and of failed ones among them.
    """
    run = CaptionRun(writer.table, writer.name, writer.weights, writer.way)
    if current_captions(store) is None:
        turn_to(store, run)
    waiting = uncaptioned(store, run.table)
    known = len(present_images(store)) - len(waiting)
    wanted = [_Wanted(*row) for row in (waiting.head(limit) if limit else waiting).iter_rows()]
    parts, failed, clock = _Parts(store, run, now, commit_seconds, check), Counter[str](), Clock()

    def read(image: _Wanted) -> tuple[_Wanted, Picture | str]:
        with clock("reading"):
            return image, _picture(image, decode)

    with readers(_READERS) as pool:
        looking = in_order(pool, read, wanted, lambda: 3 * batch_size)
        with closing(looking), closing(parts):
            for batch in _batches(looking, batch_size, failed, on_progress):
                pictures = [picture for _, picture in batch]
                with clock("writing captions"):
                    written = _halved(writer, pictures, [image.image_id for image, _ in batch])
                parts.add([image.image_id for image, _ in batch], written)
                on_progress(len(batch), 0)
    before = current_captions(store)
    if before is None or len(uncaptioned(store, run.table)) <= len(
        uncaptioned(store, before.table)
    ):
        turn_to(store, run)
    return CaptionSummary(
        table=run.table,
        model=run.model,
        captioned=parts.rows,
        empty=parts.empty,
        known=known,
        failed=dict(failed.most_common()),
        left=len(waiting) - len(wanted),
        in_force=current_captions(store) == run,
        seconds=clock.seconds(),
    )


class _Parts:
    """Rows on their way into the store."""

    def __init__(
        self,
        store: Store,
        run: CaptionRun,
        now: datetime,
        commit_seconds: float,
        check: Callable[[], None],
    ) -> None:
        self.rows = self.empty = 0
        self._store, self._run, self._now = store, run, now
        self._every, self._check = commit_seconds, check
        self._run_id, self._number = new_run_id(store, now, run.table), 0
        self._held: list[dict[str, object]] = []
        self._last = time.monotonic()

    def add(self, ids: Sequence[str], written: Sequence[Written]) -> None:
        """Take a batch; commit what is held where it is time to."""
        about = {
            "model": self._run.model,
            "weights": self._run.weights,
            "run_id": self._run_id,
            "made_at": self._now,
        }
        for identity, one in zip(ids, written, strict=True):
            self._held.append({"image_id": identity, **vars(one), **about})
        if time.monotonic() - self._last >= self._every:
            self.close()

    def close(self) -> None:
        """Commit what is held."""
        if not self._held:
            return
        self._check()
        rows, self._held = self._held, []  # what cannot be written is not tried twice
        made_of = digest([self._run.table, [row["image_id"] for row in rows]])
        table = pa.Table.from_pylist(rows, CAPTIONS)
        self._store.write_part(
            self._run.table, f"{self._run_id}-{self._number:05d}", table, made_of
        )
        self._number += 1
        self.rows += len(rows)
        self.empty += sum(row["caption"] == "" for row in rows)
        self._last = time.monotonic()


def _batches(
    looking: Iterator[tuple[_Wanted, Picture | str]],
    size: int,
    failed: Counter[str],
    on_progress: Callable[[int, int], None],
) -> Iterator[list[tuple[_Wanted, Picture]]]:
    """Put pictures together; count by reason what is none."""
    batch: list[tuple[_Wanted, Picture]] = []
    for image, picture in looking:
        if isinstance(picture, str):
            failed[picture] += 1
            on_progress(1, 1)
            continue
        batch.append((image, picture))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _picture(image: _Wanted, decode: Decode) -> Picture | str:
    """Decode an image from the first of its paths where it still lies, or say why not."""
    reason = ""
    for path in image.paths:
        try:
            data = read_bytes(path)
        except OSError as error:
            why = reason_of(error)
        else:
            if image_id(data) != image.image_id:
                why = _CHANGED
            else:
                outcome = decode(data, name_of(path))
                if isinstance(outcome, Picture):
                    return outcome
                why = outcome.reason
        reason = reason or why
    return reason


def _halved(writer: Writer, pictures: Sequence[Picture], ids: Sequence[str]) -> list[Written]:
    """Write of all together, or by halves where memory runs out."""
    try:
        return writer.write(np.stack([picture.pixels for picture in pictures]), ids)
    except MemoryError:
        if len(ids) == 1:
            raise
    half = len(ids) // 2
    left = _halved(writer, pictures[:half], ids[:half])
    return left + _halved(writer, pictures[half:], ids[half:])
