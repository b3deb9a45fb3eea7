"""A Prefect server with its UI, which ends with whoever started it: `python -m flows.local_server`.

Its one argument is the port. Standard input must be a pipe that the other side keeps open.
"""

import os
import signal
import sys
import threading
import time

import uvicorn

_FINISH_SECONDS = 2


def main() -> None:
    """Serve until told to stop, or until the other end of standard input is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        lifespan="on",
        timeout_graceful_shutdown=_FINISH_SECONDS,
    )


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # until its end, which comes however the parent ends
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(2 * _FINISH_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
