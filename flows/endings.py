"""How a flow ends: with a sentence where nobody catches errors, and never later than its parent."""

import logging
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.stopping import cleaned_by, end_now
from pipeline.errors import PseudolabelError, StoreBusyError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

logger = logging.getLogger(__name__)


@contextmanager
def ending() -> Iterator[None]:
    """Hold the work of a flow, and see to its end.

    A run of a deployment has no caller: what a user can mend becomes its final state, in words
    instead of a traceback. A store that is busy is no failure then: the run is skipped.

    Raises:
        PseudolabelError: where a caller is there to catch it.
    """
    from prefect.runtime import deployment, flow_run

    if multiprocessing.parent_process() is not None:  # a run that `serve` has started
        threading.Thread(target=_end_with_parent, daemon=True).start()
    with cleaned_by(partial(_report, UUID(flow_run.id))):
        try:
            yield
        except (PseudolabelError, OSError) as error:
            if deployment.id is None:
                raise
            _end(UUID(flow_run.id), error)
            raise


def _end(flow_run: UUID, error: PseudolabelError | OSError) -> None:
    """Give a run its final state, and leave the flow.

    Raises:
        Abort: which Prefect takes for "all is said". A state that is returned would do, had Prefect
            not the habit of raising it afterwards, with a traceback of its own.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import Abort
    from prefect.states import Cancelled, Failed

    state: State[Any] = Failed(message=str(error))
    if isinstance(error, StoreBusyError):
        state = Cancelled(name="Skipped", message=str(error))
    logger.log(logging.WARNING if state.is_cancelled() else logging.ERROR, "%s", error)
    with get_client(sync_client=True) as client:
        ended = Abort(str(error))
        ended.state = client.set_flow_run_state(flow_run, state, force=True).state  # type: ignore[attr-defined]
    raise ended from None


def _end_with_parent() -> None:
    """End this process with its parent: an orphan would hold the store, and report to nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        end_now(1, "what had started this run is gone; what was committed stays")


def _report(flow_run: UUID, code: int, why: str) -> None:
    """Tell Prefect how a run ended that is ended from outside of its flow."""
    from prefect.client.orchestration import get_client
    from prefect.logging.handlers import APILogWorker
    from prefect.states import Cancelled, Crashed

    state: State[Any] = (Crashed if code == 1 else Cancelled)(message=why)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run, state, force=True)
    APILogWorker.drain_all(timeout=2)  # the last lines say why
