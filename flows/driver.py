"""Between the command line and the flows: look first, and start Prefect only when there is work."""

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from flows import resources, stages
from flows.caption import caption_store
from flows.circumstances import begun
from flows.console import notes, print_json, progress_shown
from flows.drop import Options, process_drop, tidy, train_head
from flows.estimate import estimate
from flows.notify import watched
from flows.plan import plan
from flows.progress import listener
from flows.quiet import quiet_prefect
from flows.relabel import RelabelSummary, relabel_store
from flows.runners import PlainTasks
from flows.stopping import cleaned_by, stops_at_once
from pipeline.config import Config
from pipeline.errors import DamagedFileError, InputError, PseudolabelError
from pipeline.opening import open_store, peek_store
from pipeline.summaries import summaries

if TYPE_CHECKING:
    from prefect import Flow

    from pipeline.clip.captioning import CaptionSummary
    from pipeline.training.train import TrainSummary

P = ParamSpec("P")
R = TypeVar("R")
_WAIT_NOTE = "start Prefect (10 to 20 s where no server runs; --plain does without)"


def show_plan(config: Config, *, retry_failed: bool, as_json: bool) -> None:
    """Print what a run would do, and how long it would take."""
    from flows.plan_tables import show

    found = plan(config, retry_failed=retry_failed)
    past = summaries(peek_store(config.store))
    took = estimate(config, past, files=found.to_read, size=found.bytes, stale=found.stale)
    show(found, took, as_json=as_json)


def run_and_show(
    config: Config,
    *,
    plain: bool,
    as_json: bool,
    retry_failed: bool = False,
    wait: bool = False,
) -> None:
    """Run one drop where there is anything to do, and show what came of it."""
    with stops_at_once(), watched(config):
        _run_and_show(config, plain, as_json, Options(retry_failed=retry_failed, wait=wait))


def _run_and_show(config: Config, plain: bool, as_json: bool, options: Options) -> None:
    from flows import tables

    try:
        found = plan(config, retry_failed=options.retry_failed)
    except DamagedFileError as damage:
        notes.print(f"{damage.name} is damaged ({damage.why}): it is set aside and made again")
        found = None
    if found is not None and not found.any:
        tidy(config, found.waiting)
        tables.show_nothing_new(config, found, as_json=as_json)
        return
    begun()
    with progress_shown("load model"), _prefect(plain=plain) as ready:
        if found is None or found.to_read:
            stages.claim(config)  # a wrong model is told before Prefect is waited for
        if plain:
            summary = process_drop(config, PlainTasks(), options)
        else:
            listener.get().stage(_WAIT_NOTE)
            ready.result()
            from flows.label_images import label_images

            summary = _called(label_images, config, options)
    if as_json:
        print_json(summary)
    else:
        tables.show_drop(config, summary)


def train(config: Config, *, plain: bool, wait: bool) -> "TrainSummary":
    """Fit a head to the selection that the store holds."""
    options = Options(wait=wait)
    with stops_at_once(), progress_shown("load"), _prefect(plain=plain) as ready:
        if plain:
            return train_head(config, PlainTasks(), options)
        listener.get().stage(_WAIT_NOTE)
        ready.result()
        from flows.train_model import train_model

        return _called(train_model, config, options)


def relabel(config: Config, *, plain: bool, wait: bool, select: bool) -> RelabelSummary:
    """Give other labels to the images that the store holds."""
    resources.label_set(config)  # mistakes are told before Prefect is waited for
    open_store(config.store)
    options = Options(wait=wait)
    with stops_at_once(), progress_shown("load"), _prefect(plain=plain) as ready:
        if plain:
            return relabel_store(config, PlainTasks(), options, select)
        listener.get().stage(_WAIT_NOTE)
        ready.result()
        from flows.relabel_images import relabel_images

        return _called(relabel_images, config, options, select)


def caption(config: Config, *, plain: bool, wait: bool, limit: int) -> "CaptionSummary":
    """Write captions for the images of the store that have none."""
    options = Options(wait=wait)
    with stops_at_once(), progress_shown("load model"), _prefect(plain=plain) as ready:
        resources.captioner(config)  # a wrong one is told before Prefect is waited for
        if plain:
            return caption_store(config, PlainTasks(), options, limit)
        listener.get().stage(_WAIT_NOTE)
        ready.result()
        from flows.caption_images import caption_images

        return _called(caption_images, config, options, limit)


@contextmanager
def _prefect(*, plain: bool) -> Iterator[Future[None]]:
    """Start Prefect in the background, where it is wanted: the model loads meanwhile."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefect-start")
    with cleaned_by(_stop_prefect), pool:
        yield pool.submit(_nothing if plain else _start_prefect)


def _start_prefect() -> None:
    """Import Prefect and make sure that a server answers: the configured or a temporary one.

    Raises:
        InputError: the configured server does not answer.
    """
    quiet_prefect()
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        fault = client.api_healthcheck()
        if fault is not None:
            raise InputError(
                f"the Prefect server at {client.api_url} does not answer ({fault}): start it, "
                "unset PREFECT_API_URL to use a temporary one, or run with --plain"
            )


def _called(flow: "Flow[P, R]", *arguments: P.args, **named: P.kwargs) -> R:
    """Call a flow; that its server goes away meanwhile is no fault to be traced here."""
    import httpx

    try:
        return flow(*arguments, **named)
    except httpx.HTTPError as error:
        raise PseudolabelError(
            f"Prefect's server went away during the run ({error}). What was committed stays: run "
            "again, or with --plain"
        ) from error


def _stop_prefect(*_: object) -> None:
    """Stop the temporary server, where there is one."""
    api = sys.modules.get("prefect.server.api.server")
    server = api.SubprocessASGIServer().server_process if api is not None else None
    if server is not None:
        server.terminate()
        try:
            server.wait(2)
        except TimeoutExpired:
            server.kill()


def _nothing() -> None:
    """Start nothing."""
