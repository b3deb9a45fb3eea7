"""A folder over object storage: what is written is whole or as it was, whatever fails or dies."""

import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.buckets import Bucket, open_bucket
from pipeline.folder import Folder
from pipeline.remote import TransferError
from tests.conftest import ROOT
from tests.s3 import S3, Fault

OLD, NEW = b"old", b"new" * 10
BIG = bytes(25_000_000)  # three parts of an upload


def quick(s3: S3) -> Bucket:
    """A bucket with one attempt in the SDK and three of ours, nearly without pauses."""
    bucket = open_bucket(s3.url("store"), timeout=1, request_attempts=1, first_wait=0.01)
    s3.proxy.requests.clear()
    return bucket


@pytest.fixture(params=["s3", "memory", "file"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """One of each kind: pyarrow's own, fsspec's, and one where only a move is atomic."""
    if request.param == "memory":
        return open_bucket(f"memory://{uuid.uuid4().hex}/store")
    if request.param == "file":
        return open_bucket((tmp_path / "store").as_uri())
    s3: S3 = request.getfixturevalue("s3")
    return open_bucket(s3.url("deep/store"))


def test_an_absent_folder_is_empty(folder: Folder) -> None:
    assert folder.read("x") is None
    assert folder.names("a") == []
    assert folder.sizes() == {}
    folder.delete("x")


@pytest.mark.parametrize("data", [b"", OLD, memoryview(NEW), bytes(6_000_000)])
def test_what_is_written_is_read(folder: Folder, data: bytes | memoryview) -> None:
    folder.write("a/b/x", OLD)
    folder.write("a/b/x", data)
    assert folder.read("a/b/x") == bytes(data)
    assert folder.sizes() == {"a/b/x": len(data)}


def test_names_are_those_directly_in_a_folder(folder: Folder) -> None:
    for name in ("top", "a/2", "a/1 ü", "a/b/deep", "ab/other", "a/.tmp-left"):
        folder.write(name, NEW)
    assert folder.names("a") == ["1 ü", "2"]
    assert folder.names("") == ["top"]
    assert folder.read("a/1 ü") == NEW
    assert set(folder.sizes()) == {"top", "a/2", "a/1 ü", "a/b/deep", "ab/other", "a/.tmp-left"}


def test_what_is_deleted_is_gone(folder: Folder) -> None:
    folder.write("a/x", NEW)
    folder.delete("a/x")
    folder.delete("a/x")
    assert folder.read("a/x") is None
    assert (folder.names("a"), folder.sizes()) == ([], {})
    folder.write("a/y", NEW)  # no trace of the folder stands in the way
    assert folder.names("a") == ["y"]


def test_a_reader_sees_old_or_new(folder: Folder) -> None:
    folder.write("x", OLD)
    seen, ended = set(), threading.Event()

    def look() -> None:
        while not ended.is_set():
            seen.add(folder.read("x"))

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(100):
        folder.write("x", NEW)
    ended.set()
    reader.join()
    assert seen <= {OLD, NEW}


def test_what_fsspec_reaches_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_bucket(f"memory://{uuid.uuid4().hex}")
    folder.write("x", OLD)
    # A stream that is opened for writing empties the file first.
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.write", None, raising=False)
    folder.write("x", NEW)
    assert folder.read("x") == NEW


def test_the_full_path_leads_to_the_file(folder: Folder) -> None:
    folder.write("a/x", NEW)
    assert folder.filesystem.get_file_info(folder.full("a/x")).size == len(NEW)


def test_a_small_file_is_one_request(s3: S3) -> None:
    quick(s3).write("x", NEW)
    assert s3.proxy.requests == [f"PUT /{s3.bucket}/store/x"]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (NEW, Fault("PUT", status=500)),
        (NEW, Fault("PUT", status=503, code="SlowDown", times=2)),
        (NEW, Fault("PUT", lose_answer=True)),
        (BIG, Fault("POST", "uploads", status=500)),
        (BIG, Fault("PUT", "partNumber=2", status=500)),
        (BIG, Fault("POST", "uploadId", status=500)),
    ],
)
def test_a_write_is_tried_again(s3: S3, data: bytes, fault: Fault) -> None:
    bucket = quick(s3)
    s3.proxy.fail(fault)
    bucket.write("x", data)
    assert fault.times == 0
    assert bucket.read("x") == data


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (NEW, Fault("PUT", status=500, times=99)),
        (BIG, Fault("POST", "uploads", status=500, times=99)),
        (BIG, Fault("PUT", "partNumber=1", status=500, times=99)),
        (BIG, Fault("PUT", "partNumber=2", status=500, times=99)),
        (BIG, Fault("POST", "uploadId", status=500, times=99)),
    ],
)
def test_a_write_that_fails_leaves_what_was(s3: S3, data: bytes, fault: Fault) -> None:
    bucket = quick(s3)
    bucket.write("x", OLD)
    s3.proxy.fail(fault)
    with pytest.raises(TransferError, match=r"^not stored after 3 attempts: INTERNAL_FAILURE"):
        bucket.write("x", data)
    assert len(fault.seen) == 3
    assert bucket.read("x") == OLD
    assert bucket.sizes() == {"x": len(OLD)}


@pytest.mark.parametrize(
    ("act", "fault", "says"),
    [
        (lambda bucket: bucket.read("x"), Fault("HEAD", status=500, times=99), "not fetched"),
        (lambda bucket: bucket.names(""), Fault(status=500, times=99), "not listed"),
        (lambda bucket: bucket.sizes(), Fault(status=500, times=99), "not listed"),
        (lambda bucket: bucket.delete("x"), Fault("DELETE", status=500, times=99), "not deleted"),
    ],
)
def test_a_fault_is_no_absence(
    s3: S3, act: Callable[[Bucket], object], fault: Fault, says: str
) -> None:
    bucket = quick(s3)
    bucket.write("x", NEW)
    s3.proxy.fail(fault)
    with pytest.raises(TransferError, match=f"^{says} after 3 attempts"):
        act(bucket)
    s3.proxy.faults.clear()
    assert bucket.read("x") == NEW


@pytest.mark.parametrize("act", ["read", "write", "delete"])
def test_what_is_not_allowed_is_said_at_once(s3: S3, act: str) -> None:
    bucket = quick(s3)
    faults = [
        s3.proxy.fail(Fault(method, status=403, code="AccessDenied", times=99))
        for method in ("HEAD", "PUT")
    ]
    with pytest.raises(PermissionError, match="ACCESS_DENIED"):
        getattr(bucket, act)(*(("x", NEW) if act == "write" else ("x",)))
    assert sum(len(fault.seen) for fault in faults) == 1


WRITER = """
import sys
from pipeline.buckets import open_bucket
bucket = open_bucket(sys.argv[1])
data = b"new" * int(sys.argv[2])
print("ready", flush=True)
bucket.write("x", data)
"""


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize(
    ("thirds", "fault"),
    [
        (10, Fault("PUT", delay=0.5)),
        (8_000_000, Fault("POST", "uploads", delay=0.5)),
        (8_000_000, Fault("PUT", "partNumber=2", delay=0.5)),
    ],
)
def test_a_writer_that_dies_leaves_old_or_new(
    s3: S3, blow: signal.Signals, thirds: int, fault: Fault
) -> None:
    bucket = quick(s3)
    bucket.write("x", OLD)
    fault = s3.proxy.fail(Fault(fault.method, fault.contains, delay=fault.delay))
    command = [sys.executable, "-c", WRITER, s3.url("store"), str(thirds)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as writer:
        while not fault.seen:
            assert writer.poll() is None
            time.sleep(0.01)
        time.sleep(0.1)
        writer.send_signal(blow)
        _, complaint = writer.communicate(timeout=30)
    time.sleep(0.6)  # what is under way at the server ends
    new = b"new" * thirds
    if blow == signal.SIGINT:  # waits for the upload, then obeys
        assert complaint.strip().endswith("KeyboardInterrupt")
        assert bucket.read("x") == new
    else:
        assert bucket.read("x") in (OLD, new)


def test_where_only_a_move_is_atomic_leftovers_are_swept(tmp_path: Path) -> None:
    bucket = open_bucket((tmp_path / "store").as_uri())
    bucket.write("a/x", OLD)
    (tmp_path / "store/a/.tmp-dead").write_bytes(b"ha")
    assert bucket.names("a") == ["x"]
    bucket.sweep()
    assert bucket.sizes() == {"a/x": len(OLD)}


def test_a_move_that_fails_leaves_no_temporary_file(tmp_path: Path) -> None:
    bucket = open_bucket((tmp_path / "store").as_uri())
    (tmp_path / "store/x").mkdir(parents=True)
    with pytest.raises(OSError, match="x"):
        bucket.write("x", NEW)
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["x"]
