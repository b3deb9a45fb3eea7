"""Serve: a config and a schedule in; runs of `label_images` until stopped, and nothing left."""

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.console import notes
from flows.metrics import serve_metrics
from flows.plan import plan
from flows.quiet import quiet_prefect
from flows.server import Server, prefect_server
from flows.stopping import SAID, STOPS
from pipeline.config import Config
from pipeline.errors import DamagedFileError, PseudolabelError

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.runner import Runner

    from flows.schedule import When

_STAYS = "What was committed stays, and the next run goes on from it"
_ASK_SECONDS = 1.0  # between looks whether a run has ended
_FINISH_SECONDS = 5.0  # that a run has to end when serve is stopped
_STOP_SECONDS = 25.0  # after which nobody is waited for any more
_PAGE = 200  # runs that Prefect tells of at once, at most


def serve(config: Config, *, every: float | None, cron: str | None, watch: bool) -> None:
    """Run on a schedule, or on file arrival, until Ctrl-C or SIGTERM; then this process ends.

    Args:
        config: of every run.
        every: seconds between runs.
        cron: a cron expression.
        watch: whether files that arrive begin a run; one of the three is given.

    Raises:
        InputError: bad sources, label set or cron expression; the metrics' port is taken; the
            configured Prefect server does not answer.
        PseudolabelError: the Prefect server went away.
    """
    with suppress(DamagedFileError):  # a run sets it aside
        plan(config)  # bad input is told now, not by every run
    quiet_prefect("INFO")
    with _told_to_stop():
        from flows.schedule import When

        when = When(every, cron, watch)
        when.require()  # a wrong one is told before a server is waited for
        serve_metrics(config.store, config.metrics.port)
        with prefect_server() as server:
            asyncio.run(_serve(config, when, server))
    notes.print(SAID)
    os._exit(0)  # none of Prefect's threads is waited for


@contextmanager
def _told_to_stop() -> Iterator[None]:
    """Take a signal for the wish to stop also while the server starts."""
    mine = [stop for stop in STOPS if signal.getsignal(stop) not in (signal.SIG_IGN, None)]
    before = {stop: signal.signal(stop, signal.default_int_handler) for stop in mine}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)


async def _serve(config: Config, when: "When", server: Server) -> None:
    from prefect.client.orchestration import get_client

    from flows.arrivals import watch
    from flows.label_images import label_images
    from flows.schedule import served

    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for stop in STOPS:
        if signal.getsignal(stop) != signal.SIG_IGN:
            loop.add_signal_handler(stop, stopped.set)
    deployment = served(config, when)
    runner = _runner(deployment["name"], when)
    async with get_client() as client:
        number = await runner.aadd_flow(label_images, **deployment)
        await _tidy(client, number)
        notes.print(
            f"serving {', '.join(config.sources)} into {config.store}\n"
            f"{server.url} shows the runs; Ctrl-C stops",
            soft_wrap=True,
        )
        working = asyncio.create_task(runner.start())
        tasks: list[asyncio.Task[Any]] = [working, asyncio.create_task(_keep(server))]
        if when.watch:
            tasks.append(asyncio.create_task(watch(config, lambda: _run(client, number))))
        elif when.every is not None:
            await client.create_flow_run_from_deployment(number)
        waiting = asyncio.create_task(stopped.wait())
        done, _ = await asyncio.wait({*tasks, waiting}, return_when=asyncio.FIRST_COMPLETED)
        _end_at_last(0 if waiting in done else 1)
        for task in tasks[1:]:
            task.cancel()
        await _stop(runner, working)
        for task in done - {waiting}:
            _raise(task.exception())


def _end_at_last(code: int) -> None:
    """End this process in some seconds, whatever it still waits for by then."""
    timer = threading.Timer(_STOP_SECONDS, os._exit, [code])
    timer.daemon = True
    timer.start()


def _raise(error: BaseException | None) -> None:
    import httpx

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is None or isinstance(error, httpx.HTTPError | RuntimeError):
        raise PseudolabelError(f"Prefect's server went away ({error}). {_STAYS}") from error
    raise error


async def _keep(server: Server) -> None:
    while True:
        server.require()
        await asyncio.sleep(_ASK_SECONDS)


def _runner(name: str, when: "When") -> "Runner":
    from prefect.runner import Runner

    class Ours(Runner):
        def handle_sigterm(self, *args: Any, **kwargs: Any) -> None:
            """Leave it to the loop's own handler."""

    return Ours(
        name,
        query_seconds=min(5.0, max(1.0, (when.every or 5.0) / 2)),
        prefetch_seconds=0,  # what is fetched early during a run would be cancelled early
        pause_on_shutdown=True,
        limit=None,
    )


async def _run(client: "PrefectClient", deployment: UUID) -> bool:
    """Begin a run and wait for its end; return whether it was completed."""
    begun = await client.create_flow_run_from_deployment(deployment)
    while True:
        await asyncio.sleep(_ASK_SECONDS)
        state = (await client.read_flow_run(begun.id)).state
        if state is not None and state.is_final():
            return state.is_completed()


async def _tidy(client: "PrefectClient", deployment: UUID) -> None:
    """Put right what a killed `serve` has left: runs without a process, and ticks that are past.

    The former would hold the one place for a run; the latter would all run now.
    """
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterDeploymentId,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    async def left(*types: StateType) -> list[Any]:
        wanted = FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))),
        )
        found: list[Any] = []
        while True:  # a server that went on without us may have left thousands of ticks
            page = await client.read_flow_runs(
                flow_run_filter=wanted, limit=_PAGE, offset=len(found)
            )
            found += page
            if len(page) < _PAGE:
                return found

    for run in await left(StateType.RUNNING, StateType.PENDING, StateType.CANCELLING):
        why = "what ran it was killed; what was committed stays, and the next run goes on from it"
        await client.set_flow_run_state(run.id, Crashed(message=why), force=True)
    for run in await left(StateType.SCHEDULED):
        due = run.next_scheduled_start_time
        if run.auto_scheduled and due is not None and due < datetime.now(UTC):
            await client.delete_flow_run(run.id)


async def _stop(runner: "Runner", working: "asyncio.Task[None]") -> None:
    """Stop the runner, and the run under way: it is told, and after some seconds killed."""
    stopping = {working}
    if runner.started:
        stopping.add(asyncio.create_task(runner.astop()))
    await asyncio.wait(stopping, timeout=_FINISH_SECONDS)
    for run in multiprocessing.active_children():
        run.kill()
    await asyncio.wait(stopping, timeout=_FINISH_SECONDS)
    for task in stopping:
        task.cancel()
