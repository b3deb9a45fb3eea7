"""An S3 server for the tests, and before it a proxy that fails on command.

The server is moto's, in a process of its own; the proxy stands in the test's process, so that a
test tells it what goes wrong. pyarrow finds both through the usual environment variables.
"""

import http.client
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

_SERVER = """
import sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # ends with the test's process, however that ends
"""
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_ERROR = "<?xml version='1.0'?><Error><Code>{0}</Code><Message>{0} by test</Message></Error>"


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that match."""

    method: str = "GET"
    contains: str = ""  # a piece of the path or query
    times: int = 1
    status: int | None = None  # answer this and ask the server nothing
    code: str = "InternalError"  # S3's name of the error, sent with `status`
    cut_after: int | None = None  # close the connection after so many bytes of the body
    stall_after: int | None = None  # send nothing more after so many bytes of the body
    delay: float = 0.0  # seconds before the server is asked
    first: Callable[[], object] | None = None  # done before the server is asked
    lose_answer: bool = False  # the server does it, but the client never hears of it
    seen: list[str] = field(default_factory=list)  # the requests that were hit


class FaultProxy(ThreadingHTTPServer):
    """A reverse proxy: every request goes to the server unless a fault matches it."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server_at = ("127.0.0.1", port)
        self.faults: list[Fault] = []
        self.requests: list[str] = []  # "METHOD path?query", as they came
        self.calm = threading.Event()  # set: nothing stalls any longer
        self._guard = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def link(self) -> http.client.HTTPConnection:
        """Return a connection past the proxy."""
        return http.client.HTTPConnection(*self.server_at, timeout=30)

    def fail(self, fault: Fault) -> Fault:
        """Let a fault happen; the first that matches a request is the one."""
        self.faults.append(fault)
        return fault

    def reset(self) -> None:
        self.calm.set()  # threads that hold a stalled connection end
        self.calm = threading.Event()
        self.faults.clear()
        self.requests.clear()

    def take(self, request: str) -> Fault:
        """Return the fault of a request; one that does nothing when there is none."""
        method, _, path = request.partition(" ")
        with self._guard:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and fault.contains in path:
                    fault.times -= 1
                    fault.seen.append(request)
                    return fault
        return Fault()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that go away are what we test."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet, or each answer takes 40 ms
    disable_nagle_algorithm = True
    server: FaultProxy

    def _relay(self) -> None:
        body = self._body()
        fault = self.server.take(f"{self.command} {self.path}")
        calm = self.server.calm
        calm.wait(fault.delay)
        if fault.first is not None:
            fault.first()
        if fault.status is not None:
            self._answer(fault.status, {}, _ERROR.format(fault.code).encode(), fault, calm)
            return
        link = self.server.link()
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP | {"expect"}}
        link.request(self.command, self.path, body, headers)
        answer = link.getresponse()
        content = answer.read()
        link.close()
        if fault.lose_answer:
            self.close_connection = True
            return
        kept = {k: v for k, v in answer.getheaders() if k.lower() not in _HOP}
        if self.command == "HEAD":
            kept["Content-Length"] = answer.getheader("Content-Length") or "0"
        self._answer(answer.status, kept, content, fault, calm)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _relay  # noqa: N815

    def handle_expect_100(self) -> bool:
        """Say at once that the body may come: the client waits a second for it."""
        self.send_response_only(100)
        self.end_headers()
        self.wfile.flush()
        return True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes, fault: Fault, calm: threading.Event
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return  # and http.server flushes
        stop = min(n for n in (fault.cut_after, fault.stall_after, len(body)) if n is not None)
        self.wfile.write(body[:stop])
        self.wfile.flush()
        if fault.stall_after is not None:
            calm.wait(60)
        if stop < len(body):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing."""


@dataclass
class S3:
    """One test's bucket, behind the proxy."""

    proxy: FaultProxy
    bucket: str

    def put(self, key: str, body: bytes) -> None:
        """Store an object behind the proxy's back."""
        link = self.proxy.link()
        signed = {"Authorization": "AWS test:test"}  # not checked, but nobody may not overwrite
        link.request("PUT", f"/{self.bucket}/{key}", body, signed)
        assert link.getresponse().status == 200
        link.close()

    def url(self, prefix: str = "") -> str:
        return f"s3://{self.bucket}/{prefix}" if prefix else f"s3://{self.bucket}"


@pytest.fixture(scope="session")
def s3_proxy() -> Iterator[FaultProxy]:
    """The server and the proxy, once a session."""
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    port = int(server.stdout.readline())
    with FaultProxy(port) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        yield proxy
        proxy.shutdown()
    server.kill()
    server.communicate()


@pytest.fixture
def s3(s3_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A new bucket, and the environment through which any S3 client finds it."""
    s3_proxy.reset()
    for name, value in {
        "AWS_ENDPOINT_URL": s3_proxy.endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",  # or the SDK asks 169.254.169.254 and waits
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    bucket = S3(s3_proxy, f"test-{uuid.uuid4().hex[:12]}")
    bucket.put("", b"")  # makes the bucket itself
    yield bucket
    s3_proxy.reset()
