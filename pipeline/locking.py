"""One writer at a time: a lock that goes away with its process, and says who holds it.

On a local folder it is `flock`, which the kernel releases when the holder dies, however it dies; it
guards the processes of one host, and what is written into the file is only for the message. On
object storage it is a lease (`leases`).
"""

import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import StoreBusyError
from pipeline.folder import LocalFolder
from pipeline.store import LOCK, Store

Check = Callable[[], None]  # raises StoreError when the lock was lost
_POLL_SECONDS = 0.2


@contextmanager
def writer_lock(store: Store, *, wait: bool = False) -> Iterator[Check]:
    """Hold the store's only write lock for the length of a `with` block.

    What an interrupted writer left half-written is swept as soon as the lock is held.

    Args:
        store: the store to write to.
        wait: wait for the present holder instead of giving up.

    Yields:
        A function to be called between steps: it raises StoreError when the lock was lost.

    Raises:
        StoreBusyError: another process holds it and `wait` is off; names host, process and time.
    """
    if isinstance(store.folder, LocalFolder):
        with _file_lock(store.folder.root, wait=wait):
            store.folder.sweep()
            yield _never_lost
    else:
        from pipeline.leases import lease

        with lease(store.folder, wait=wait) as check:
            store.folder.sweep()
            yield check


@contextmanager
def _file_lock(root: Path, *, wait: bool) -> Iterator[None]:
    with (root / LOCK).open("a+") as file:
        while not _try_lock(file.fileno()):
            if not wait:
                file.seek(0)
                raise StoreBusyError(_busy(root, file.read()))
            time.sleep(_POLL_SECONDS)
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "token": uuid.uuid4().hex,  # a process may hold it twice within a second
        }
        file.truncate(0)
        file.write(json.dumps(owner))
        file.flush()
        os.fsync(file.fileno())  # workers on other hosts look whether it is still there
        yield


def _never_lost() -> None:
    """The kernel keeps a file's lock as long as the process lives."""


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _busy(root: Path, written: str) -> str:
    try:
        owner = json.loads(written)
        who = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError):  # the holder has not yet written its name
        who = "another process"
    return f"{root} is being written by {who}; try again later, or add --wait"
