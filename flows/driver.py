"""Between the command line and the flows: look first, and start Prefect only when there is work."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows import stages
from flows.console import notes, out, print_json, progress_shown
from flows.drop import DropSummary, Options, process_drop, train_head
from flows.quiet import quiet_prefect
from flows.runners import PlainTasks
from pipeline.config import Config
from pipeline.errors import InputError, PseudolabelError
from pipeline.images.scan import Changes
from pipeline.images.sources import source_root
from pipeline.store import create_store

if TYPE_CHECKING:
    from pipeline.training.train import TrainSummary

_WAIT_NOTE = "Prefect's temporary server (10 to 20 s; --plain does without)"


@dataclass(frozen=True)
class Plan:
    """What a run would do now."""

    to_read: int
    new: int
    changed: int
    gone: int
    waiting: int
    known: int  # files that need no reading
    stale: list[str]  # later stages that would run

    @property
    def any(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.to_read or self.new or self.changed or self.gone or self.stale)


def plan(config: Config, *, retry_failed: bool = False) -> Plan:
    """Find out what a run would do, without loading torch or Prefect.

    Raises:
        InputError: bad sources or label set.
    """
    stages.label_set(config)
    if not config.sources:
        raise InputError("no source: name a folder, or set sources in the config file")
    for source in config.sources:
        source_root(source)
    changes: Changes = stages.look(config, create_store(config.store), retry_failed=retry_failed)
    return Plan(
        to_read=len(changes.to_read),
        new=changes.new,
        changed=changes.changed,
        gone=len(changes.gone),
        waiting=changes.waiting,
        known=changes.listed - changes.new - changes.changed - changes.waiting,
        stale=stages.stale_stages(config),
    )


def show_plan(config: Config, *, retry_failed: bool, as_json: bool) -> None:
    """Print what a run would do."""
    found = plan(config, retry_failed=retry_failed)
    if as_json:
        print_json(found)
        return
    out.print(
        f"would read {found.to_read} files ({found.new} new, {found.changed} changed); "
        f"{found.known} known, {found.gone} gone, {found.waiting} waiting"
    )
    after = "every stage" if found.to_read else ", ".join(found.stale) or "nothing else"
    out.print(f"would then run: {after}")


def run_and_show(
    config: Config,
    *,
    plain: bool,
    as_json: bool,
    truth: str | None = None,
    retry_failed: bool = False,
    wait: bool = False,
) -> None:
    """Run one drop where there is anything to do, and show what came of it."""
    from flows import tables

    found = plan(config, retry_failed=retry_failed)
    if not found.any:
        tables.show_nothing_new(config, found, as_json=as_json)
        return
    options = Options(truth=truth, retry_failed=retry_failed, wait=wait)
    with progress_shown("load model"):
        if found.to_read:
            stages.claim(config)  # a wrong model is told before Prefect is waited for
        summary = _run_drop(config, options, plain=plain)
    if as_json:
        print_json(summary)
    else:
        tables.show_drop(config, summary, truth)


def train(config: Config, *, plain: bool, truth: str | None, wait: bool) -> "TrainSummary":
    """Fit a head to the selection that the store holds."""
    options = Options(truth=truth, wait=wait)
    with progress_shown("train" if plain else _WAIT_NOTE):
        if plain:
            return train_head(config, PlainTasks(), options)
        quiet_prefect()
        from flows.train_model import train_model

        summary: TrainSummary = _through_prefect(train_model, config, options)
        return summary


def serve(config: Config, *, every: float | None, cron: str | None) -> None:
    """Serve the flow until stopped."""
    quiet_prefect("INFO")
    from flows.schedule import serve as serve_flow

    stages.label_set(config)
    notes.print(f"serving {', '.join(config.sources)} into {config.store}; Ctrl-C stops")
    serve_flow(config, every=every, cron=cron)


def _run_drop(config: Config, options: Options, *, plain: bool) -> DropSummary:
    if plain:
        return process_drop(config, PlainTasks(), options)
    quiet_prefect()
    from flows.progress import listener

    listener.get().stage(_WAIT_NOTE)
    from flows.label_images import label_images

    summary: DropSummary = _through_prefect(label_images, config, options)
    return summary


def _through_prefect(flow: Any, config: Config, options: Options) -> Any:
    """Call a flow; a Prefect server that does not answer is a matter of the user's settings."""
    import httpx

    try:
        return flow(config, options)
    except PseudolabelError:
        raise
    except (httpx.HTTPError, RuntimeError) as error:
        if "API" in str(error) or isinstance(error, httpx.HTTPError):
            raise InputError(
                f"the Prefect server cannot be reached ({error}): start it, unset "
                "PREFECT_API_URL to use a temporary one, or run with --plain"
            ) from error
        raise
