"""The write lock on object storage: never two holders, and none for ever."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from pipeline import leases
from pipeline.buckets import Bucket, open_bucket
from pipeline.errors import StoreBusyError, StoreError
from pipeline.leases import lease
from tests.conftest import ROOT
from tests.s3 import S3, Fault

SECONDS = 3.0  # after which a silent holder is dead; the storage counts whole ones

HOLDER = """
import sys, time
from pipeline.buckets import open_bucket
from pipeline.errors import StoreError
from pipeline.leases import lease
try:
    with lease(open_bucket(sys.argv[1]), seconds=3.0, renew=0.5) as check:
        print("held", flush=True)
        while True:
            time.sleep(0.1)
            check()
except StoreError as error:
    print(error, flush=True)
"""

# A file that must not exist yet stands for what only one may do at a time.
WORKER = """
import os, sys, time
from pipeline.buckets import open_bucket
from pipeline.leases import lease
bucket = open_bucket(sys.argv[1])
for turn in range(int(sys.argv[3])):
    with lease(bucket, wait=True, seconds=3.0, renew=0.5, pause=0.05):
        os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL))
        time.sleep(0.02)
        os.unlink(sys.argv[2])
    print(turn, flush=True)
"""


def quick(s3: S3) -> Bucket:
    return open_bucket(s3.url("store"), timeout=1, request_attempts=1, first_wait=0.01)


def hold(
    bucket: Bucket, *, wait: bool = False, pause: float = 0.05
) -> AbstractContextManager[Callable[[], None]]:
    return lease(bucket, wait=wait, seconds=SECONDS, renew=0.5, pause=pause)


def start(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def holder(s3: S3) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lock."""
    with start(HOLDER, s3.url("store")) as process:
        assert line(process) == "held"
        yield process
        process.kill()


def leave_ticket(bucket: Bucket, **changes: object) -> None:
    """Leave a ticket as this very process would, but for some changes."""
    ticket = leases._Ticket(bucket, 60, 15)
    bucket.write(f".lock/{ticket.name}", json.dumps({**ticket.owner, **changes}).encode())


def test_the_lock_is_free_again_afterwards(s3: S3) -> None:
    bucket = quick(s3)
    for _ in range(2):
        with hold(bucket) as check:
            check()
            [ticket] = bucket.names(".lock")
            assert json.loads(bucket.read(f".lock/{ticket}") or b"")["held"] is True
        assert bucket.names(".lock") == []
    with pytest.raises(KeyError), hold(bucket):
        raise KeyError
    assert bucket.names(".lock") == []


def test_a_second_writer_is_told_who_holds_it(s3: S3) -> None:
    bucket = quick(s3)
    with holder(s3) as process:
        time.sleep(SECONDS + 1.5)  # only its renewals keep it
        says = (
            rf"^{re.escape(bucket.location)} is being written by process {process.pid} on "
            rf"{re.escape(socket.gethostname())} since 20\d\d-.*; try again later, or add --wait$"
        )
        with pytest.raises(StoreBusyError, match=says), hold(bucket):
            pass
        assert len(bucket.names(".lock")) == 1  # the holder's


def test_there_are_never_two_holders(s3: S3, tmp_path: Path) -> None:
    turns = 12
    workers = [start(WORKER, s3.url("store"), str(tmp_path / "in"), str(turns)) for _ in range(3)]
    said = [worker.communicate(timeout=120)[0].split("\n") for worker in workers]
    assert said == [[*map(str, range(turns)), ""]] * 3
    assert quick(s3).names(".lock") == []


def test_a_killed_holder_is_succeeded_at_once(s3: S3) -> None:
    bucket = quick(s3)
    with holder(s3) as process:
        process.kill()  # and not yet waited for: a zombie still has its number
        time.sleep(0.3)
        began = time.monotonic()
        with hold(bucket):
            assert time.monotonic() - began < SECONDS / 2
            assert len(bucket.names(".lock")) == 1


def test_a_number_that_was_given_anew_keeps_nobody_alive(s3: S3) -> None:
    bucket = quick(s3)
    leave_ticket(bucket, held=True, started="1")  # another process had our number
    with hold(bucket):
        pass
    leave_ticket(bucket, held=True)
    with pytest.raises(StoreBusyError), hold(bucket):
        pass


@pytest.mark.parametrize("changes", [{"machine": "another", "pid": 1, "started": "1"}, {}])
def test_a_silent_holder_elsewhere_is_waited_out(s3: S3, changes: dict[str, object]) -> None:
    bucket = quick(s3)
    leave_ticket(bucket, held=True, **changes)
    began = time.monotonic()
    with hold(bucket, wait=True):
        assert SECONDS - 1 < time.monotonic() - began < SECONDS + 3


def test_a_ticket_that_cannot_be_read_counts_until_it_runs_out(s3: S3) -> None:
    bucket = quick(s3)
    bucket.write(".lock/odd.json", b"[1]")
    with pytest.raises(StoreBusyError, match="by another process"), hold(bucket):
        pass
    with hold(bucket, wait=True):
        assert "odd.json" not in bucket.names(".lock")


def test_one_who_only_tries_is_given_way_to(s3: S3) -> None:
    bucket = quick(s3)
    leave_ticket(bucket, held=False)
    with pytest.raises(StoreBusyError), hold(bucket):
        pass
    assert len(bucket.names(".lock")) == 1  # ours is withdrawn


def test_one_who_only_tried_stops_nobody(s3: S3) -> None:
    bucket = quick(s3)
    leave_ticket(bucket, held=False)
    rival = bucket.names(".lock")[0]
    threading.Timer(0.2, bucket.delete, (f".lock/{rival}",)).start()
    with hold(bucket, pause=0.2):  # not waiting, yet trying a few times
        pass


def test_a_holder_that_cannot_renew_stops_before_another_starts(s3: S3) -> None:
    reason = (
        r"was lost: it could not be renewed for [23] s \(not stored after 3 attempts: INTERNAL_"
    )
    with pytest.raises(StoreError, match=reason), hold(quick(s3)) as check:
        s3.proxy.fail(Fault("PUT", ".lock", status=500, times=9999))
        began = time.monotonic()
        with pytest.raises(StoreError, match=reason):
            while time.monotonic() - began < SECONDS:
                time.sleep(0.05)
                check()


def test_a_block_that_ends_well_after_the_loss_does_not_pass(s3: S3) -> None:
    with pytest.raises(StoreError, match="was lost"), hold(quick(s3)):
        s3.proxy.fail(Fault("PUT", ".lock", status=500, times=9999))
        time.sleep(SECONDS)


def test_a_fault_that_passes_costs_nothing(s3: S3) -> None:
    with hold(quick(s3)) as check:
        fault = s3.proxy.fail(Fault("PUT", ".lock", status=500, times=6))
        time.sleep(2.5)
        check()
        assert fault.times == 0


def test_a_holder_that_stood_still_is_succeeded_and_notices(s3: S3) -> None:
    bucket = quick(s3)
    with holder(s3) as process:
        process.send_signal(signal.SIGSTOP)
        with hold(bucket, wait=True) as check:
            process.send_signal(signal.SIGCONT)
            assert "the write lock was lost" in line(process)
            process.wait(10)
            check()
            assert len(bucket.names(".lock")) == 1  # it took its late ticket away


def test_a_clock_that_stood_still_is_noticed(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.leases.time.clock_gettime", lambda clock: 0.0)
    ticket = leases._Ticket(quick(s3), 3.0, 0.5)
    ticket.show(held=True)
    ticket.show(held=True)
    time.sleep(4)
    with pytest.raises(StoreError, match="this machine stood still"):
        ticket.show(held=True)


def test_a_ticket_that_was_taken_away_is_noticed(s3: S3) -> None:
    bucket = quick(s3)
    ticket = leases._Ticket(bucket, 60.0, 15.0)
    s3.proxy.fail(Fault(first=lambda: bucket.delete(f".lock/{ticket.name}")))
    with pytest.raises(StoreError, match="another writer took it over"):
        ticket.show(held=True)


def test_a_renewal_that_comes_too_late_leaves_no_ticket(s3: S3) -> None:
    bucket = quick(s3)
    ticket = leases._Ticket(bucket, SECONDS, 0.1)
    ticket.heard -= SECONDS
    ticket.keep(threading.Event())  # ends by itself
    assert bucket.names(".lock") == []
    with pytest.raises(StoreError, match="was lost"):
        ticket.check()


def test_knobs_that_cannot_work_are_refused(s3: S3) -> None:
    with (
        pytest.raises(ValueError, match=r"at most half of 10, got 6"),
        lease(quick(s3), seconds=10, renew=6),
    ):
        pass


def test_storage_that_fsspec_knows() -> None:
    url = f"memory://{uuid.uuid4().hex}"
    with hold(open_bucket(url)) as check:
        check()
        says = f"process {os.getpid()} "
        with pytest.raises(StoreBusyError, match=says), hold(open_bucket(url)):
            pass
    with hold(open_bucket(url)):
        pass
