"""Where the time goes: seconds summed up by what they were spent on, from many threads."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class Clock:
    """Sums of seconds by name."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._lock = Lock()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add what the block takes, exceptions included."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a sum."""
        with self._lock:
            self._sums[name] += seconds

    def seconds(self) -> dict[str, float]:
        """Return the sums, to the millisecond, in the order in which they were begun."""
        with self._lock:
            return {name: round(seconds, 3) for name, seconds in self._sums.items()}
