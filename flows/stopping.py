"""Stopping: Ctrl-C or SIGTERM ends a command within seconds, whatever it is doing.

Nothing is lost: the store is as after a power cut, and the next run goes on from it. So there is no
waiting for threads that cannot be interrupted, only for what would be left running.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from flows.console import notes

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: its terminal was closed
SAID = "stopped; what was committed stays, and the next run goes on from it"
_CLEAN_SECONDS = 4.0  # for each cleaner

Clean = Callable[[int, str], None]  # told the exit code and the reason
_cleaners: list[Clean] = []


@contextmanager
def cleaned_by(clean: Clean) -> Iterator[None]:
    """Have `clean` called before a process is ended from outside of its main thread."""
    _cleaners.append(clean)
    try:
        yield
    finally:
        _cleaners.remove(clean)


def end_now(code: int, why: str) -> None:
    """End this process without waiting for its threads, when the cleaners are done."""
    for clean in reversed(_cleaners):
        # In a thread, for a server that does not answer must not keep us.
        cleaning = threading.Thread(target=_quietly, args=(clean, code, why), daemon=True)
        cleaning.start()
        cleaning.join(_CLEAN_SECONDS)
    with suppress(OSError, ValueError):
        notes.show_cursor()  # which a progress bar hides
        sys.stdout.flush()
    os._exit(code)


@contextmanager
def stops_at_once() -> Iterator[None]:
    """Let a signal end this process with 128 and its number, and a sentence.

    A handler in Python would run when the main thread comes back to Python, and others may take its
    place (Prefect's does, in a flow). The wakeup descriptor is written to by the kernel's own
    handler: a thread that reads it hears every signal at once.
    """
    if threading.current_thread() is not threading.main_thread():  # no place for signals
        yield
        return
    heard, told = os.pipe()
    os.set_blocking(told, False)
    # What is ignored, as by nohup, stays so; what was set by C (None) could not be put back.
    mine = [stop for stop in STOPS if signal.getsignal(stop) not in (signal.SIG_IGN, None)]
    before = {stop: signal.signal(stop, lambda *_: None) for stop in mine}
    wakeup = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    # No daemon: should the main thread end first, the exit code is still this one's.
    thread = threading.Thread(target=_hear, args=(heard, set(mine)), name="stop")
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for stop, handler in before.items():
            signal.signal(stop, handler)
        os.write(told, b"\0")
        thread.join()
        os.close(heard)
        os.close(told)


def _hear(heard: int, stops: set[signal.Signals]) -> None:
    while True:
        number = os.read(heard, 1)[0]
        if number == 0:
            return
        if number in stops:
            notes.print(f"\n{SAID}")
            end_now(128 + number, SAID)


def _quietly(clean: Clean, code: int, why: str) -> None:
    with suppress(Exception):  # the rest is to be cleaned all the same
        clean(code, why)
