"""Reaching storage and reading whole objects, against a real server that fails on command."""

import socket
import time
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import pyarrow.fs
import pytest

from pipeline.errors import InputError, StorageError
from pipeline.remote import TransferError, _other, connect, fetch
from tests.s3 import S3, Fault

BODY = bytes(range(256)) * 4000  # about 1 MB


def reach(s3: S3, **options: float) -> pyarrow.fs.FileSystem:
    """Connect with one attempt in the SDK, so that the attempts counted are ours."""
    filesystem, _ = connect(s3.url(), attempts=1, timeout=1)
    s3.proxy.requests.clear()
    return filesystem


def get(s3: S3, filesystem: pyarrow.fs.FileSystem, key: str = "x") -> bytes:
    return fetch(filesystem, f"{s3.bucket}/{key}", attempts=3, first_wait=0.01)


@pytest.mark.parametrize("body", [b"", b"1", BODY])
def test_an_object_comes_whole(s3: S3, body: bytes) -> None:
    s3.put("x", body)
    assert get(s3, reach(s3)) == body


@pytest.mark.parametrize("name", ["a b", "ü/Ω", "100%", "a%20b", "what?", "a#b", "a+b", "x=y&z"])
def test_a_url_is_taken_as_it_is_written(s3: S3, name: str) -> None:
    filesystem, path = connect(s3.url(f"in/{name}"))
    assert path == f"{s3.bucket}/in/{name}"
    with filesystem.open_output_stream(f"{path}/file") as file:
        file.write(b"1")
    listed = filesystem.get_file_info(pyarrow.fs.FileSelector(path))
    assert [info.path for info in listed] == [f"{s3.bucket}/in/{name}/file"]
    assert fetch(filesystem, listed[0].path) == b"1"


def test_a_url_of_another_scheme_is_taken_so_too(tmp_path: Path) -> None:
    assert _other("gs://bucket/a b%20c", 1)[1] == "bucket/a b%20c"  # connect would ask Google
    folder = tmp_path / "a b%20c"
    assert connect(folder.as_uri())[1] == str(folder)  # but this kind is quoted by custom
    assert connect(f"file://{tmp_path}/a b")[1] == str(tmp_path / "a b")


def test_a_slash_at_the_end_says_nothing(s3: S3) -> None:
    assert connect(s3.url("a/b/"))[1] == f"{s3.bucket}/a/b"
    assert connect(s3.url() + "/")[1] == s3.bucket


def test_storage_that_fsspec_knows(s3: S3) -> None:
    filesystem, path = connect("memory://test-remote/here/")
    with filesystem.open_output_stream(f"{path}/x") as file:
        file.write(b"abc")
    assert fetch(filesystem, f"{path}/x") == b"abc"
    with pytest.raises(FileNotFoundError):
        fetch(filesystem, f"{path}/y")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault("HEAD", status=500),
        Fault(status=503, code="SlowDown", times=2),
        Fault(cut_after=1000, times=2),
        Fault(cut_after=0),
        Fault(stall_after=1000),
        Fault(lose_answer=True),
    ],
)
def test_what_passes_is_tried_again(s3: S3, fault: Fault) -> None:
    s3.put("x", BODY)
    filesystem = reach(s3)
    s3.proxy.fail(fault)
    assert get(s3, filesystem) == BODY
    assert fault.times == 0


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(status=500, times=99), "INTERNAL_FAILURE"),
        (Fault(status=503, code="SlowDown", times=99), "SERVICE_UNAVAILABLE"),
        (Fault("HEAD", status=502, times=99), "HTTP status 502"),
        (Fault(cut_after=1000, times=99), "with 1023000 bytes missing"),
        (Fault(stall_after=0, times=99), "Operation too slow"),
    ],
)
def test_what_stays_is_given_up_with_the_reason(s3: S3, fault: Fault, says: str) -> None:
    s3.put("x", BODY)
    filesystem = reach(s3)
    s3.proxy.fail(fault)
    began = time.monotonic()
    with pytest.raises(TransferError, match=rf"^not fetched after 3 attempts: .*{says}"):
        get(s3, filesystem)
    assert time.monotonic() - began < 30
    assert len(fault.seen) == 3


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=403, code="AccessDenied", times=99), PermissionError),
        (Fault("HEAD", status=403, times=99), PermissionError),
        (Fault(status=404, code="NoSuchKey", times=99), FileNotFoundError),
        (Fault(status=400, code="NotKnownToTheSdk", times=99), TransferError),
    ],
)
def test_what_cannot_get_better_is_not_tried_again(
    s3: S3, fault: Fault, kind: type[OSError]
) -> None:
    s3.put("x", BODY)
    filesystem = reach(s3)
    s3.proxy.fail(fault)
    with pytest.raises(kind):
        get(s3, filesystem)
    assert len(fault.seen) == 1


def test_what_is_not_there_is_asked_for_once(s3: S3) -> None:
    filesystem = reach(s3)
    with pytest.raises(FileNotFoundError):
        get(s3, filesystem, "HTTP status 500 during")  # a name must not be read as a fault
    assert len(s3.proxy.requests) == 1


@pytest.mark.parametrize("later", [BODY + b"more", BODY[:1000]])
def test_an_object_replaced_meanwhile_is_not_cut(s3: S3, later: bytes) -> None:
    s3.put("x", BODY)
    filesystem = reach(s3)
    s3.proxy.fail(Fault(first=lambda: s3.put("x", later)))  # between its size and its bytes
    assert get(s3, filesystem) == later


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nosuch://a/b", r"^nosuch://a/b: Protocol not known: nosuch; name a folder, or storage"),
        ("absent://a/b", r"^absent://a/b: a package is missing: pip install absent"),
        ("s3://", "^s3://: names no bucket; write s3://bucket/prefix"),
        ("s3://no-such-bucket-here/x", "^s3://no-such-bucket-here/x: no such bucket; make it"),
        ("s3://id:secret@bucket/x", r"^s3://\.\.\.@bucket/x: .* must hold no keys"),
    ],
)
def test_a_url_that_leads_nowhere_is_named_with_the_cure(s3: S3, url: str, says: str) -> None:
    fsspec.register_implementation(
        "absent", "no_such_module.It", clobber=True, errtxt="pip install absent"
    )
    with pytest.raises(InputError, match=says):
        connect(url)


def test_keys_that_are_refused(s3: S3) -> None:
    fault = s3.proxy.fail(Fault("HEAD", status=403, times=99))
    with pytest.raises(InputError, match=r"access denied .* set AWS_ACCESS_KEY_ID and AWS_SECRET"):
        connect(s3.url("x"))
    assert len(fault.seen) == 1


def test_google_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://127.0.0.1:{free}")
    began = time.monotonic()
    with pytest.raises(InputError, match=r"^gs://anonymous@bucket/x: .* check the network"):
        connect("gs://anonymous@bucket/x", timeout=2)
    assert time.monotonic() - began < 15


def test_keys_for_a_folder_need_not_open_the_bucket(s3: S3) -> None:
    fault = s3.proxy.fail(Fault("HEAD", f"/{s3.bucket}", status=404))  # the folder: new
    s3.proxy.fail(Fault("HEAD", status=403))  # the bucket
    assert connect(s3.url("new"))[1] == f"{s3.bucket}/new"
    assert fault.times == 0


def test_an_endpoint_that_is_not_there(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    tls = s3.proxy.endpoint.replace("http:", "https:")
    for endpoint, error, says in (
        (f"http://127.0.0.1:{free}", StorageError, "does not answer .* check AWS_ENDPOINT_URL"),
        (tls, InputError, "without TLS is given as http://"),
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        began = time.monotonic()
        with pytest.raises(error, match=says):
            connect(s3.url("x"))
        assert time.monotonic() - began < 15


def test_an_endpoint_that_says_nothing(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(
            StorageError, match=r"does not answer .*Operation too slow.* last 1 seconds"
        ):
            connect(s3.url("x"), timeout=1, attempts=2)
        assert time.monotonic() - began < 15
