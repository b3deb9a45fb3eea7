"""Tells Prefect what people see of a run there: its name, how far it is, its artifacts.

Only flows import this. Nothing in here fails or holds up a run: a Prefect server that is gone, slow
or refuses what it is told is noted in the log, and the run goes on.
"""

import logging
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from json import dumps
from typing import TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows import artifacts, run_names
from flows.drop import DropSummary
from flows.prefect_progress import PrefectProgress
from flows.progress import listener
from pipeline.config import Config
from pipeline.opening import open_store
from pipeline.reports.contact_sheet import clipped

R = TypeVar("R")

PICTURE_BYTES = 140_000  # of the contact sheet: below 200 kB as text, for it lies in a database
KEPT_PICTURES = 20  # of a store, for the same reason
_LOGGERS = ("flows", "pipeline")
_LONGEST = 500  # characters of why Prefect refused: it repeats what it was given
_PATIENCE = 10.0  # seconds for an answer
_RETRIES = 1  # SQLite below Prefect turns away who writes in the same moment (503)
_SILENCE = 30.0  # seconds in which a server that did not answer is asked nothing

logger = logging.getLogger(__name__)


def planned(doing: str) -> Callable[[], str]:
    """Return what names a run of a flow before it has done anything.

    Args:
        doing: what it will do, up to the name of the store.
    """

    def name() -> str:
        given = flow_run.parameters.get("config")
        store = given.store if isinstance(given, Config) else (given or {}).get("store", "")
        return f"{doing} store {run_names.store_name(str(store))}"

    return name


class Seen:
    """One flow run, as Prefect shows it."""

    def __init__(self, client: SyncPrefectClient, run: UUID, store: str) -> None:
        """Tell of the flow run `run`, whose store lies at `store`, by an open client."""
        self._client, self._run = client, run
        self._key = run_names.store_key(store)
        self._silent_until = 0.0

    def rename(self, name: str) -> None:
        """Name the run by what it did."""
        self._told(
            "the name of the run", lambda: self._client.update_flow_run(self._run, name=name)
        )

    def drop(self, config: Config, drop: DropSummary) -> None:
        """Name the run by what its drop brought, and leave table, contact sheet and report."""
        self.rename(run_names.of_drop(config, drop))
        report = drop.report
        if report is None:  # nothing new: what was seen of the last run still holds
            return
        title = "What arrived, failed, was labelled, selected and trained"
        self._leave("drop", "table", title, lambda: dumps(artifacts.drop_table(config, drop)))
        title = "What needs a look, and where the report is"
        self._leave("report", "markdown", title, lambda: artifacts.drop_words(config, drop))
        if report.contact_sheet:
            sheet = report.contact_sheet
            self._told("the contact sheet", lambda: self._leave_sheet(config, sheet))

    def progress(self, stage: str, artifact: UUID | None, percent: float, said: str) -> UUID | None:
        """Tell how far a stage is; return the artifact that says so, None where nobody heard."""

        def tell() -> UUID:
            if artifact is None:
                return self._create(stage, "progress", said, percent)
            self._client.update_artifact(artifact, ArtifactUpdate(data=percent, description=said))
            return artifact

        return self._told("how far the run is", tell)

    def _leave(self, name: str, kind: str, said: str, make: Callable[[], object]) -> None:
        self._told(f"the artifact {name}", lambda: self._create(name, kind, said, make()))

    def _leave_sheet(self, config: Config, file: str) -> None:
        from pipeline.reports.small_sheet import small_sheet

        png = open_store(config.store).get(file)
        small = small_sheet(png, at_most=PICTURE_BYTES) if png else None
        if small is None:
            return
        which = f"{small.rows} of {small.of} classes" if small.rows < small.of else "each class"
        said = f"The surest and the least sure images of {which}"
        uri = f"data:image/webp;base64,{b64encode(small.content).decode()}"
        self._create("contact-sheet", "image", said, uri)
        key = ArtifactFilterKey(any_=[f"{self._key}-contact-sheet"])
        old = self._client.read_artifacts(
            artifact_filter=ArtifactFilter(key=key),
            sort=ArtifactSort.CREATED_DESC,
            offset=KEPT_PICTURES,
            limit=KEPT_PICTURES,
        )
        for each in old:
            self._client.delete_artifact(each.id)

    def _create(self, name: str, kind: str, said: str, data: object) -> UUID:
        wanted = ArtifactCreate(
            key=f"{self._key}-{name}",
            type=kind,
            description=said,
            data=data,
            flow_run_id=self._run,
        )
        return self._client.create_artifact(wanted).id

    def _told(self, what: str, call: Callable[[], R]) -> R | None:
        if time.monotonic() < self._silent_until:
            return None
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: _RETRIES}):
                return call()
        except Exception as error:  # whatever it is, the run is what matters
            if isinstance(error, httpx.TransportError):
                self._silent_until = time.monotonic() + _SILENCE
            said = clipped(f"{type(error).__name__}: {error}", _LONGEST)
            logger.warning("Prefect was not told %s: %s", what, said)
            return None


@contextmanager
def seen(config: Config) -> Iterator[Seen]:
    """Let Prefect show how far the flow run is that the block is a part of, and what it tells."""
    run = UUID(str(flow_run.id))
    with _log_sent(run), get_client({"timeout": _PATIENCE}, sync_client=True) as client:
        told = Seen(client, run, config.store)
        with PrefectProgress(listener.get(), told.progress) as progress:
            token = listener.set(progress)
            try:
                yield told
            finally:
                listener.reset(token)


@contextmanager
def _log_sent(run: UUID) -> Iterator[None]:
    """Send what the stages say, from whatever thread, to the log of a flow run."""
    handler = APILogHandler()

    def attributed(record: logging.LogRecord) -> bool:
        record.flow_run_id = str(run)  # the threads of a stage know of no flow
        return True

    handler.addFilter(attributed)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.level, logger.handlers) for logger in loggers]
    for logger in loggers:
        # Prefect's own setting `logging.extra_loggers` would send all of it a second time.
        others = [each for each in logger.handlers if not isinstance(each, APILogHandler)]
        logger.handlers = [*others, handler]
        logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
    try:
        yield
    finally:
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers = handlers
