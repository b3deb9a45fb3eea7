"""Where tasks run: in this process plainly, or in this process as Prefect tasks.

A drop is written once, over `Tasks`; both ways run the very same stage functions.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

R = TypeVar("R")
T = TypeVar("T")


class Tasks(Protocol):
    """Runs the steps of a drop, each under a name that people read."""

    def run(self, name: str, step: Callable[..., R], *args: Any) -> R:
        """Run one step and return its result."""

    def each(self, name: str, step: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Run one step for every item; results come in the order of the items."""


class PlainTasks:
    """Calls the steps, and nothing else."""

    def run(self, name: str, step: Callable[..., R], *args: Any) -> R:  # noqa: ARG002
        """Call the step."""
        return step(*args)

    def each(self, name: str, step: Callable[[T], R], items: Sequence[T]) -> list[R]:  # noqa: ARG002
        """Call the step item by item."""
        return [step(item) for item in items]


class PrefectTasks:
    """Wraps each call in a Prefect task of its own, so that Prefect shows and times it."""

    def run(self, name: str, step: Callable[..., R], *args: Any) -> R:
        """Run the step as a task."""
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        # The store itself knows what is done (see `pipeline.store`); Prefect's cache would answer
        # with a result whose file may be gone.
        prefect_task = task(name=name, cache_policy=NO_CACHE, persist_result=False)
        return prefect_task(step)(*args)

    def each(self, name: str, step: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Run a task per item, one after another: they share one model and one GPU."""
        return [self.run(f"{name} {item}", step, item) for item in items]
