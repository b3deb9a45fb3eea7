"""Following a store: a snapshot to answer from, and a newer one when the store has changed.

A snapshot is swapped as a whole: who began with one ends with it. While a store cannot be read, be
it damaged or half gone, the last snapshot goes on answering, and `Follower.problem` says so.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.config import Config
from pipeline.errors import InputError, PseudolabelError
from pipeline.identity import EncoderIdentity
from pipeline.images.recorded import RecordedImages
from pipeline.labels.labelling import current_labels
from pipeline.labels.question import LabelRun
from pipeline.opening import open_store
from pipeline.search.searcher import Searcher
from pipeline.store import Store

_LONGEST_PAUSE = 30.0  # seconds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labelled:
    """The label run in force, in numbers."""

    run: LabelRun
    counts: dict[str, int]  # images that are there by label, of every class of the set
    abstained: int
    calibrated: bool


@dataclass(frozen=True)
class Snapshot:
    """A store as it was at one moment."""

    store: Store
    searcher: Searcher
    images: RecordedImages
    labelled: Labelled | None  # null: nothing was labelled yet
    at: datetime


def open_snapshot(
    config: Config, encoder: EncoderIdentity | None, earlier: Snapshot | None = None
) -> Snapshot:
    """Read what a store holds now.

    Args:
        config: which store.
        encoder: that it must be of; None: not known yet.
        earlier: one opened before, whose files of the index are not read again.

    Raises:
        InputError: there is no store, it has no index yet, or is of another encoder.
        StoreError: it is damaged.
    """
    store, now = open_store(config.store), datetime.now(UTC)
    if encoder is not None:
        store.require(encoder)
    searcher = Searcher.open(store, earlier.searcher if earlier else None)
    images = RecordedImages.of(store)
    return Snapshot(store, searcher, images, _labelled(store, images), now)


def _labelled(store: Store, images: RecordedImages) -> Labelled | None:
    try:
        run = current_labels(store)
    except InputError:  # embedded, not labelled yet
        return None
    rows = store.read(run.table, ["image_id", "label", "calibrated"]).unique("image_id")
    rows = rows.join(images.ids(), on="image_id", how="semi")
    counts = dict(rows["label"].drop_nulls().value_counts().iter_rows())
    return Labelled(
        run=run,
        counts={name: counts.get(name, 0) for name in run.label_set.names},
        abstained=rows["label"].null_count(),
        calibrated=bool(len(rows) and rows["calibrated"].all()),
    )


class Follower:
    """Holds the snapshot in force."""

    def __init__(
        self, first: Snapshot, reopen: Callable[[Snapshot], Snapshot], *, seconds: float
    ) -> None:
        """Hold a first snapshot.

        Args:
            first: the snapshot.
            reopen: opens a newer one, given the one before.
            seconds: between looks.
        """
        self.now = first
        self.problem: str | None = None  # why there is no newer snapshot
        self._reopen, self._seconds = reopen, seconds
        self._looked = time.monotonic()

    @property
    def looked_ago(self) -> float:
        """Seconds since the store was last looked at."""
        return time.monotonic() - self._looked

    async def run(self) -> None:
        """Look again and again until cancelled."""
        pause = self._seconds
        while True:
            await asyncio.sleep(pause)
            await asyncio.to_thread(self.look)
            # A store that cannot be read is not read over and over.
            pause = self._seconds if self.problem is None else min(2 * pause, _LONGEST_PAUSE)

    def look(self) -> None:
        """Open a new snapshot where the store has changed; keep the old one where it cannot be."""
        try:
            if self.problem is not None or not self.now.searcher.is_current():
                self.now = self._reopen(self.now)
                logger.info("now %d images, as of %s", len(self.now.searcher), self.now.at)
            problem = None
        except (PseudolabelError, OSError) as error:
            problem = str(error)
        except Exception as error:  # a fault of ours must not end the following
            logger.exception("the store cannot be followed")
            problem = f"{type(error).__name__}: {error}"
        if problem and problem != self.problem:
            logger.warning("answering from the snapshot of %s: %s", self.now.at, problem)
        self.problem, self._looked = problem, time.monotonic()
