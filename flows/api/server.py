"""Serving: a config in; a service that answers until told to stop, and leaves nothing running."""

import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from flows.api.limits import is_loopback
from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.opening import open_store

_FINISH_SECONDS = 30  # that running requests have after the signal to stop
_BACKLOG = 1024

logger = logging.getLogger(__name__)


def serve(config: Config, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; running requests are finished first.

    Args:
        config: the store, the model and where to listen.
        ready: called with the service's URL when it is about to answer.

    Raises:
        InputError: the address cannot be listened on, or the store or the model cannot be used.
    """
    with _listening(config.api.host, config.api.port) as listener:
        if not is_loopback(config.api.host):
            logger.warning(
                "listening on %s: whoever reaches this machine may search the store and see its "
                "images, for nobody is asked who he is",
                config.api.host,
            )
        open_store(config.store)  # one that is not there is told before torch is loaded
        from flows.api.app import create_app
        from flows.api.connections import hanging_up_after
        from flows.api.service import load_service

        app = create_app(load_service(config))
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=hanging_up_after(config.api.upload_seconds),
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                access_log=False,  # the door logs, without what was asked
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_FINISH_SECONDS,
            )
        )
        host, port = listener.getsockname()[:2]
        ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        with _stops_quietly():
            server.run(sockets=[listener])


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Without the protocol asyncio takes it for no TCP, and each answer waits 40 ms for its ACK.
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"api.host = {host!r}: {error.strerror or error}") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise InputError(
                f"api.host = {host!r}, api.port = {port}: cannot be listened on "
                f"({error.strerror}); choose another with --port, 0 for any"
            ) from error
        listener.listen(_BACKLOG)  # who comes while the model loads waits
        yield listener


@contextmanager
def _stops_quietly() -> Iterator[None]:
    """Let uvicorn's own end be the end: afterwards it sends itself the signal that ended it."""
    stops = (signal.SIGINT, signal.SIGTERM)
    before = {stop: signal.signal(stop, lambda *_: None) for stop in stops}
    try:
        yield
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)
