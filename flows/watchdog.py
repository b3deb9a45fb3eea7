"""A watchdog: a run that does nothing any more is ended, and the next one goes on from it.

No thread can be killed, least of all one that waits for a disk: the process is ended. The store is
as after a power cut, which loses nothing that was committed.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from flows.notify import tell_failure
from flows.progress import Listener, listener
from flows.stopping import end_now
from pipeline.config import Config
from pipeline.errors import StorageError

logger = logging.getLogger(__name__)

_BUSY = 0.1  # of one core: less is what waiting threads take
_TOLD_SECONDS = 20.0  # that telling may take: where storage hangs, so may that
_BY_FILES = "embed"  # the step whose progress is told file by file, and in which models may loop


class _Signs:
    """Hears how a run gets on, and passes it on to whom it was told before."""

    def __init__(self, told: Listener) -> None:
        self._told = told
        self.step, self.count, self.by_files = "the run", 0, False

    def stage(self, name: str, total: int = 0, unit: str = "images") -> None:
        self.step, self.by_files = name, False
        self.count += 1
        self._told.stage(name, total, unit)

    def advance(self, done: int, failed: int) -> None:
        self.by_files = self.step == _BY_FILES
        self.count += 1
        self._told.advance(done, failed)


@contextmanager
def ends_when_stalled(config: Config) -> Iterator[None]:
    """End this process (exit code 1) when a run has shown no sign of life for too long.

    Signs are that a step began and that files are done; while a step has told of no file yet, also
    that this process computes: building an index tells of nothing in between.
    """
    limit = config.run.stall_seconds
    if not limit:
        yield
        return
    signs, ended = _Signs(listener.get()), threading.Event()
    token = listener.set(signs)
    thread = threading.Thread(target=_watch, args=(config, signs, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        listener.reset(token)


def _watch(config: Config, signs: _Signs, ended: threading.Event) -> None:
    limit = config.run.stall_seconds
    pause = min(5.0, limit / 10)
    count, computed, looked = signs.count, time.process_time(), time.monotonic()
    alive = looked
    while not ended.wait(pause):
        now, used = time.monotonic(), time.process_time()
        computes = used - computed > _BUSY * (now - looked)
        if signs.count != count or (computes and not signs.by_files):
            alive = now
        count, computed, looked = signs.count, used, now
        if now - alive > limit:
            _give_up(config, signs.step)


def _give_up(config: Config, step: str) -> None:
    error = StorageError(
        f"{step}: nothing was done for {config.run.stall_seconds:g} s (run.stall_seconds), so the "
        "run is ended. What was committed stays, and the next run goes on from it"
    )
    logger.error("%s", error)
    telling = threading.Thread(target=_tell, args=(config, error), daemon=True)
    telling.start()
    telling.join(_TOLD_SECONDS)
    end_now(1, str(error))


def _tell(config: Config, error: StorageError) -> None:
    with suppress(Exception):
        tell_failure(config, error)
