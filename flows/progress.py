"""Where a run tells how far it is: a stage begins, files are done.

The command line hears it and draws a bar; nobody need listen.
"""

from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    """Hears how a run gets on."""

    def stage(self, name: str, total: int = 0, unit: str = "images") -> None:
        """Hear that a stage begins, and how many files it will go through (0: unknown)."""

    def advance(self, done: int, failed: int) -> None:
        """Hear that files were done, failed ones among them."""


class Silence:
    """Listens to nothing."""

    def stage(self, name: str, total: int = 0, unit: str = "images") -> None:
        """Do nothing."""

    def advance(self, done: int, failed: int) -> None:
        """Do nothing."""


listener: ContextVar[Listener] = ContextVar("listener", default=Silence())  # noqa: B039 - it holds nothing
