"""One writer at a time, and a lock that dies with its holder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import StoreBusyError
from pipeline.locking import writer_lock
from pipeline.opening import create_store
from pipeline.store import Store

HOLD = """
import sys, time
from pipeline.locking import writer_lock
from pipeline.opening import open_store
with writer_lock(open_store(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(store: Store, seconds: float) -> subprocess.Popen[str]:
    """Start a process that holds the lock, and wait until it does."""
    command = [sys.executable, "-c", HOLD, str(Path(store.location)), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_writer_is_told_who_holds_the_store(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    holder = hold(store, 60)
    try:
        says = rf"process {holder.pid} on .* since \d{{4}}-"
        with pytest.raises(StoreBusyError, match=says), writer_lock(store):
            pass
    finally:
        holder.kill()
        holder.wait()


def test_the_lock_of_a_killed_writer_is_free(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    holder = hold(store, 60)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with writer_lock(store):
        pass


def test_waiting_goes_on_when_the_holder_is_done(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    holder = hold(store, 1.0)
    started = time.monotonic()
    with writer_lock(store, wait=True):
        assert time.monotonic() - started > 0.5
    holder.wait()


def test_what_an_interrupted_writer_left_is_swept(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "s"))
    leftover = Path(store.location) / "files/.tmp-123"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half")
    with writer_lock(store):
        assert not leftover.exists()
