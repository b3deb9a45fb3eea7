"""Where tasks run: in this process plainly, or in this process as Prefect tasks.

A drop is written once, over `Tasks`; both ways run the very same stage functions.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from flows.progress import listener
from flows.retries import BACK_OFF, worth_another_try
from flows.sentences import of_step
from pipeline.clock import Clock
from pipeline.locking import Check

R = TypeVar("R")

logger = logging.getLogger(__name__)


class Tasks(Protocol):
    """Runs the steps of a drop, each under a name that people read."""

    def run(self, name: str, step: Callable[..., R], *args: Any) -> R:
        """Run one step and return its result."""


class PlainTasks:
    """Calls the steps, and nothing else."""

    def run(self, name: str, step: Callable[..., R], *args: Any) -> R:  # noqa: ARG002
        """Call the step."""
        return step(*args)


class PrefectTasks:
    """Wraps each call in a Prefect task of its own, so that Prefect shows and times it.

    Where storage or the network fails, a step is tried again; it goes on from what was committed.
    """

    def run(self, name: str, step: Callable[..., R], *args: Any) -> R:
        """Run the step as a task."""
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        # The store itself knows what is done (see `pipeline.store`); Prefect's cache would answer
        # with a result whose file may be gone.
        prefect_task = task(
            name=name,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=len(BACK_OFF),
            retry_delay_seconds=list(BACK_OFF),
            retry_condition_fn=worth_another_try,
        )
        return prefect_task(step)(*args)


class Steps:
    """Runs the steps of a drop or a relabelling, one after another: each is told and timed."""

    def __init__(self, tasks: Tasks, clock: Clock, check: Check) -> None:
        """Run them by `tasks`; `check` raises when the store is not ours any more."""
        self._tasks, self._clock, self._check = tasks, clock, check

    def run(self, name: str, step: Callable[..., R], *args: Any, files: int = 0) -> R:
        """Run one step that goes through so many files (0: unknown)."""
        self._check()
        listener.get().stage(name, files)
        with self._clock(name):
            summary = self._tasks.run(name, step, *args)
        logger.info(of_step(name, summary))
        return summary
