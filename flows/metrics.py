"""Metrics for a monitor: kept by every run, written to files, answered over HTTP."""

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pipeline.config import Config
from pipeline.errors import InputError, PseudolabelError, StoreBusyError
from pipeline.folder import LocalFolder
from pipeline.homes import without_tilde
from pipeline.locking import writer_lock
from pipeline.opening import open_store, peek_store
from pipeline.store import IDENTITY, Store

logger = logging.getLogger(__name__)

_OUR_ADDRESS = "127.0.0.1"


def record(config: Config, store: Store, outcome: str, fresh: Mapping[str, Any]) -> None:
    """Count a run in the store, whose lock must be held, and in the file that the config names.

    Args:
        config: of the run.
        store: its store.
        outcome: one of `openmetrics.OUTCOMES`.
        fresh: the numbers that are new.
    """
    from pipeline.reports.openmetrics import count_run, held_numbers, put_numbers

    text = put_numbers(store, count_run(held_numbers(store), fresh, outcome, now=time.time()))
    if not config.metrics.file:
        return
    file = without_tilde(config.metrics.file)
    try:
        LocalFolder(file.parent).write(file.name, text)  # a collector never sees half of it
    except OSError as error:
        logger.warning("metrics.file = %s: cannot be written (%s)", file, error.strerror)


def record_outside(config: Config, outcome: str, fresh: Mapping[str, Any]) -> None:
    """Count a run that does not hold the lock, where it can be had and there is a store."""
    # Not one that is being written, may not be written, or does not answer: it is no fault of a run
    # with nothing to do, and one that failed has its own error.
    with suppress(PseudolabelError, OSError):
        store = peek_store(config.store)
        if store.get(IDENTITY) is None:
            return
        with suppress(StoreBusyError), writer_lock(store):
            record(config, store, outcome, fresh)


def serve_metrics(store: str, port: int) -> ThreadingHTTPServer | None:
    """Answer http://127.0.0.1:PORT/metrics from a thread of its own, until this process ends.

    What is answered is `metrics/pseudolabel.prom` as the last run left it, so that a scrape costs
    no more than reading a file.

    Args:
        store: location of the store; it need not be there yet.
        port: 0: nothing is served.

    Returns:
        The server, whose `shutdown` ends it; None for port 0.

    Raises:
        InputError: the port is taken.
    """
    if not port:
        return None
    try:
        server = ThreadingHTTPServer((_OUR_ADDRESS, port), _handler(store))
    except OSError as error:
        raise InputError(
            f"metrics.port = {port}: cannot be served on {_OUR_ADDRESS} ({error.strerror}); "
            "choose another, or 0 for none"
        ) from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def _handler(store: str) -> type[BaseHTTPRequestHandler]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            from pipeline.reports.openmetrics import CONTENT_TYPE, TEXT, metrics_text

            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404, "only /metrics is here")
                return
            try:
                text = _text(store, TEXT) or metrics_text({})
            except (PseudolabelError, OSError) as error:
                self.send_error(503, "the store cannot be read")
                logger.warning("metrics: %s", error)
                return
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as there
            logger.debug(format, *args)

    return Answer


def _text(store: str, name: str) -> bytes | None:
    held = peek_store(store)
    return open_store(store).get(name) if held.get(IDENTITY) is not None else None
