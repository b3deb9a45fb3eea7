"""One writer at a time on object storage: a ticket that its holder renews, or that runs out.

Each contender writes its ticket and then lists them all: of two who write before they list, one at
least sees the other and withdraws, so there are never two holders. It rests on a listing that shows
every finished write, as those of S3, GCS and Azure do. Only times that the storage gave are
compared: the clocks of the hosts do not matter.
"""

import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pyarrow import fs

from pipeline.errors import StoreBusyError, StoreError
from pipeline.folder import Folder
from pipeline.store import LOCK

_TRIES = 8  # meetings with others who also only try, before we call the store busy
_CHANCE = random.SystemRandom()  # not seeded: two processes must not pause in step
# Where there is one, a clock that goes on while the machine sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@contextmanager
def lease(
    folder: Folder,
    *,
    wait: bool = False,
    seconds: float = 60.0,
    renew: float = 15.0,
    pause: float = 1.0,
) -> Iterator[Callable[[], None]]:
    """Hold a folder's only write lock for the length of a `with` block.

    Yields a function that raises StoreError once the lock may be another's. It costs nothing: call
    it before every write. A writer that is halted between that call and its write can still be
    overtaken; no storage could refuse it.

    Args:
        folder: on storage whose listings show every finished write.
        wait: wait for the present holder instead of giving up.
        seconds: a holder that was not heard of for longer is taken for dead. The same everywhere.
        renew: between two signs of life; the holder itself gives up at `seconds - renew`.
        pause: the mean pause between two tries.

    Raises:
        StoreBusyError: another holds it and `wait` is off; names host, process and time.
        StoreError: the lock was lost meanwhile, though the block ended well.
        OSError: the storage failed.
    """
    if not 0 < 2 * renew <= seconds:
        raise ValueError(f"renew must be above 0 and at most half of {seconds}, got {renew}")
    ticket = _acquire(folder, wait, seconds, renew, pause)
    ended = threading.Event()
    keeper = threading.Thread(target=ticket.keep, args=(ended,), daemon=True)
    keeper.start()
    try:
        yield ticket.check
        ticket.check()
    finally:
        ended.set()
        keeper.join(renew)  # a renewal under way would bring the ticket back
        ticket.withdraw()


class _Ticket:
    """Our own entry in the lock."""

    def __init__(self, folder: Folder, seconds: float, renew: float) -> None:
        self.folder, self.seconds, self.renew = folder, seconds, renew
        self.name = f"{uuid.uuid4().hex}.json"
        self.owner: dict[str, object] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": _machine(),
            "started": _started(os.getpid()),
        }
        self.heard = time.clock_gettime(_CLOCK)  # when the last renewal that succeeded began
        self.stamp: datetime | None = None  # the time that the storage gave it
        self.fault = self.lost = ""

    def show(self, *, held: bool) -> dict[str, datetime]:
        """Write the ticket; return the times of all tickets, in which ours must be."""
        began = time.clock_gettime(_CLOCK)
        self.folder.write(f"{LOCK}/{self.name}", json.dumps({**self.owner, "held": held}).encode())
        times = _times(self.folder)
        stamp = times.get(self.name)
        self.check()  # the write itself may have taken too long
        if stamp is None:
            self.lost = "another writer took it over"
        elif self.stamp and (stamp - self.stamp).total_seconds() > self.seconds - self.renew:
            self.lost = "this machine stood still"  # and its clock with it: a virtual one
        self.check()
        self.heard, self.stamp = began, stamp
        return times

    def keep(self, ended: threading.Event) -> None:
        """Renew until the end; at the loss of the lock leave the rest to `check`."""
        while not ended.wait(self.renew):
            try:
                self.show(held=True)
            except OSError as error:  # the next may succeed; `check` knows how long it may take
                self.fault = f" ({error})"
            except StoreError:
                self.withdraw()  # a ticket that came too late must not stop the next holder
                return

    def check(self) -> None:
        """Raise StoreError when another may have taken the lock."""
        silent = time.clock_gettime(_CLOCK) - self.heard
        if not self.lost and silent > self.seconds - self.renew:
            self.lost = f"it could not be renewed for {silent:.0f} s{self.fault}"
        if self.lost:
            raise StoreError(
                f"{self.folder.location}: the write lock was lost: {self.lost}. "
                "Nothing more is written; run it again"
            )

    def withdraw(self) -> None:
        """Take the ticket away; if that fails it runs out."""
        with suppress(OSError):
            self.folder.delete(f"{LOCK}/{self.name}")


def _acquire(folder: Folder, wait: bool, seconds: float, renew: float, pause: float) -> _Ticket:
    tries = 0
    while True:
        ticket = _Ticket(folder, seconds, renew)
        tries += 1
        won = False
        try:
            rivals = _rivals(ticket, ticket.show(held=False))
            if not rivals:
                ticket.show(held=True)
                won = True
                return ticket
        except StoreError:  # too slow: our own ticket ran out
            rivals = [{}]
        finally:
            if not won:
                ticket.withdraw()
        held = [rival for rival in rivals if rival.get("held")]
        if not wait and (held or tries == _TRIES):
            raise StoreBusyError(_busy(folder, (held or rivals)[0]))
        time.sleep(pause * _CHANCE.uniform(0.2, 1.8))


def _rivals(mine: _Ticket, times: dict[str, datetime]) -> list[dict[str, object]]:
    """Return the owners of all other tickets that are alive; take the dead ones away."""
    rivals = []
    for name, stamp in times.items():
        if name == mine.name:
            continue
        written = mine.folder.read(f"{LOCK}/{name}")
        if written is None:
            continue  # withdrawn
        try:
            owner = dict(json.loads(written))
        except (ValueError, TypeError):
            owner = {}
        if (times[mine.name] - stamp).total_seconds() > mine.seconds or _is_dead(owner):
            mine.folder.delete(f"{LOCK}/{name}")
        else:
            rivals.append(owner)
    return rivals


def _times(folder: Folder) -> dict[str, datetime]:
    """Return when each ticket was written, by the storage's clock."""
    where = fs.FileSelector(folder.full(LOCK), allow_not_found=True)
    times = {}
    for info in folder.filesystem.get_file_info(where):
        if info.type == fs.FileType.File and info.base_name.endswith(".json"):
            with suppress(FileNotFoundError):  # withdrawn meanwhile
                times[info.base_name] = info.mtime or folder.filesystem.handler.fs.modified(
                    info.path  # fsspec has it, but pyarrow does not pass it on
                )
    return times


def _is_dead(owner: dict[str, object]) -> bool:
    """Whether the owner was a process of this machine that is no more; a number may be reused."""
    here = bool(owner.get("machine")) and owner.get("machine") == _machine()
    return here and _started(int(str(owner["pid"]))) != owner.get("started")


def _machine() -> str:
    """Name the boot and the process namespace, within which a process number means one process.

    Host names will not do: those of containers repeat. Empty where there is no /proc.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process began, in ticks since the boot; empty when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # killed, but its parent has not looked


def _busy(folder: Folder, owner: dict[str, object]) -> str:
    who = "another process"
    if {"pid", "host", "since"} <= owner.keys():
        who = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    return f"{folder.location} is being written by {who}; try again later, or add --wait"
