"""The Prefect server that a schedule needs: the one that is configured, or one of our own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.quiet import quiet_prefect
from pipeline.errors import InputError, PseudolabelError

_LEASES = "prefect.server.concurrency.lease_storage.filesystem"
_ENVIRONMENT = {
    # In memory, they would not outlive a crash, and what they hold would stay held.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": _LEASES,
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
}
_STOP_SECONDS = 5


@dataclass(frozen=True)
class Server:
    """A Prefect server that answers."""

    url: str  # of its UI
    process: "subprocess.Popen[bytes] | None" = None  # null: not ours
    log: Path | None = None

    def require(self) -> None:
        """See that it still runs, where it is ours.

        Raises:
            PseudolabelError: it has ended; with what it said last.
        """
        code = self.process.poll() if self.process else None
        if code is not None:
            raise PseudolabelError(
                f"the local Prefect server ended (exit code {code}){self._said()}"
            )

    def _said(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log else []
        return f"; {self.log} says: {lines[-1]}" if lines else ""


def configured_server(*, needed_by: str) -> Server:
    """Return the server that PREFECT_API_URL names.

    Raises:
        InputError: it is not set, or the server does not answer.
    """
    found = _configured()
    if found is None:
        raise InputError(
            f"{needed_by} needs a Prefect server that stays: run `prefect server start`, then set "
            "PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    return found


@contextmanager
def prefect_server() -> Iterator[Server]:
    """Use the configured server; where there is none, run one for the length of a `with` block.

    Its database lies in PREFECT_HOME, so that the history of runs stays. It ends with this process,
    however that ends.

    Raises:
        InputError: the configured server does not answer.
        PseudolabelError: our own cannot be started.
    """
    found = _configured()
    if found is not None:
        yield found
        return
    from prefect.settings import PREFECT_HOME, PREFECT_SERVER_API_PORT

    port = _free(PREFECT_SERVER_API_PORT.value())
    log = Path(PREFECT_HOME.value()) / "pseudolabel-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as said:
        process = subprocess.Popen(  # noqa: S603 - our own code
            # -P: a folder `flows` of the working folder is not ours.
            [sys.executable, "-P", "-m", "flows.local_server", str(port)],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            env=_environment(port),
            start_new_session=True,  # Ctrl-C is for us: runs are reported before it stops
        )
    server = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait(server)
        _use(f"{server.url}/api")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _configured() -> Server | None:
    quiet_prefect("INFO")
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        return None
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        fault = client.api_healthcheck()
    if fault is not None:
        raise InputError(f"PREFECT_API_URL = {url}: the Prefect server does not answer ({fault})")
    return Server(url.removesuffix("/api"))


def _free(port: int) -> int:
    """Return a port that is free: this one if it is."""
    for wanted in (port, 0):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            return int(tried.getsockname()[1])
    raise PseudolabelError("no port of 127.0.0.1 is free for a Prefect server")


def _environment(port: int) -> dict[str, str]:
    return {
        **_ENVIRONMENT,
        **os.environ,
        # Not by an option: the UI asks the port that the settings name.
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT__SERVER_FINAL": "1",
    }


def _wait(server: Server) -> None:
    import httpx
    from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    seconds = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        server.require()
        try:
            if httpx.get(f"{server.url}/api/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise PseudolabelError(f"the local Prefect server did not answer within {seconds} s")


def _use(api: str) -> None:
    """Make it the server of this process, and of all that it starts."""
    from prefect.context import refresh_global_settings_context

    os.environ["PREFECT_API_URL"] = api
    refresh_global_settings_context()
