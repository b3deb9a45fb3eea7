"""A listener that tells Prefect every few seconds how far each stage is, and passes on all else.

A thread of its own does the telling, so that no image ever waits for Prefect.
"""

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from uuid import UUID

from flows.progress import Listener

# Told of a stage: its name, the artifact that shows it (None: there is none yet), percent, words.
Tell = Callable[[str, UUID | None, float, str], UUID | None]

EVERY = 5.0  # seconds between tellings at least
_LAST = 15.0  # seconds that the end of a run waits for the last telling


@dataclass
class _Bar:
    """How far one stage is, and what of it was told."""

    stage: str
    total: int  # images
    done: int = 0
    failed: int = 0
    ended: bool = False
    started: float = field(default_factory=time.monotonic)
    told: tuple[int, bool] | None = None  # done and ended, as they were told last
    artifact: UUID | None = None

    @property
    def percent(self) -> float:
        return 100.0 if self.ended else min(100.0, 100 * self.done / self.total)

    @property
    def words(self) -> str:
        took = max(time.monotonic() - self.started, 1e-3)
        said = f"{self.stage}: {self.done:,} of {self.total:,} images"
        if self.failed:
            said += f", {self.failed:,} unreadable"
        if self.done:
            said += f", {rate(self.done, took)}"
        if self.ended or not self.done:
            return said
        left = took / self.done * max(self.total - self.done, 0)
        return f"{said}, about {_span(left)} left"


class PrefectProgress:
    """Hears how a run gets on, and has it told."""

    def __init__(self, beside: Listener, tell: Tell) -> None:
        """Pass on all to `beside`, and use `tell` as a context manager does: until its end."""
        self._beside, self._tell_one = beside, tell
        self._bars: list[_Bar] = []
        self._present: _Bar | None = None
        self._lock = threading.Lock()
        self._news, self._ended = threading.Event(), False
        # Prefect's settings, which say where the server is, lie in the context.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._loop,), name="prefect-progress", daemon=True
        )

    def __enter__(self) -> Self:
        """Begin to tell."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Tell where the run ended; a stage that was broken off stays where it was."""
        with self._lock:
            if self._present is not None and error is None:
                self._present.ended = True
            self._ended = True
        self._news.set()
        self._thread.join(_LAST)

    def stage(self, name: str, total: int = 0, unit: str = "images") -> None:
        """Hear that a stage begins; the one before it has ended."""
        self._beside.stage(name, total, unit)
        with self._lock:
            if self._present is not None:
                self._present.ended = True
            self._present = _Bar(name, total) if total and unit == "images" else None
            if self._present is not None:
                self._bars.append(self._present)
                self._news.set()

    def advance(self, done: int, failed: int) -> None:
        """Hear that images were done; they are told with the next telling."""
        self._beside.advance(done, failed)
        with self._lock:
            if self._present is not None:
                self._present.done += done
                self._present.failed += failed

    def _loop(self) -> None:
        ended = False
        while not ended:
            self._news.wait(EVERY)
            self._news.clear()
            ended = self._ended  # what was heard before it is told now
            self._tell()

    def _tell(self) -> None:
        with self._lock:
            bars = [bar for bar in self._bars if bar.told != (bar.done, bar.ended)]
        for bar in bars:
            with self._lock:
                now, percent, words = (bar.done, bar.ended), bar.percent, bar.words
            heard = self._tell_one(bar.stage.replace(" ", "-"), bar.artifact, percent, words)
            if heard is not None:
                bar.artifact, bar.told = heard, now


def rate(images: int, seconds: float) -> str:
    """Return how fast that was.

    >>> rate(3, 4), rate(2000, 4)
    ('0.8 images/s', '500 images/s')
    """
    found = images / seconds
    return f"{found:.0f} images/s" if found >= 10 else f"{found:.1f} images/s"


def _span(seconds: float) -> str:
    """Return about how long that is.

    >>> _span(42), _span(90), _span(9000)
    ('42 s', '2 min', '2.5 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
