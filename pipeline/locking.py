"""One writer at a time: a lock that goes away with its process, and says who holds it.

`flock` is released by the kernel when the holder dies, however it dies. It guards the processes of
one host; what is written into the file is only for the message.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from pipeline.errors import StoreBusyError
from pipeline.store import LOCK, TEMPORARY, Store

_POLL_SECONDS = 0.2


@contextmanager
def writer_lock(store: Store, *, wait: bool = False) -> Iterator[None]:
    """Hold the store's only write lock for the length of a `with` block.

    What an interrupted writer left half-written is swept as soon as the lock is held.

    Args:
        store: the store to write to.
        wait: wait for the present holder instead of giving up.

    Raises:
        StoreBusyError: another process holds it and `wait` is off; names host, process and time.
    """
    with (store.root / LOCK).open("a+") as file:
        while not _try_lock(file.fileno()):
            if not wait:
                file.seek(0)
                raise StoreBusyError(_busy(store, file.read()))
            time.sleep(_POLL_SECONDS)
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        file.truncate(0)
        file.write(json.dumps(owner))
        file.flush()
        for leftover in store.root.rglob(f"{TEMPORARY}*"):
            leftover.unlink(missing_ok=True)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _busy(store: Store, written: str) -> str:
    try:
        owner = json.loads(written)
        who = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError):  # the holder has not yet written its name
        who = "another process"
    return f"{store.root} is being written by {who}; try again later, or add --wait"
