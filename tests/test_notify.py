"""Hooks, told by real commands and a real HTTP server, prompt, broken and hanging."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.notify import call_hook, tell_drift, watched
from flows.reporting import ReportSummary, redacted
from pipeline.config import Config, make_config
from pipeline.errors import InputError, PseudolabelError, StoreBusyError
from pipeline.notice import NotifyConfig
from tests.conftest import pseudolabel
from tests.processes import alive, wait_until

SECRET = "T0/very-secret"


def keeping(place: Path) -> tuple[str, ...]:
    """Return a command that adds its standard input to a file, a line a call."""
    code = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n')"
    return (sys.executable, "-c", code, str(place))


def told(place: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []


class Webhook(ThreadingHTTPServer):
    """Answers with the statuses it is given, then with 204; a status of 0 is never answered."""

    daemon_threads = True

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = list(statuses)
        self.bodies: list[object] = []
        self.free = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/{SECRET}"


class _Handler(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append((self.path, self.headers["Content-Type"], json.loads(body)))
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        if not status:  # a byte now and then, and never an end
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not self.server.free.wait(0.05):
                self.wfile.write(b"x")
            return
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def webhook(*statuses: int) -> Iterator[Webhook]:
    server = Webhook(*statuses)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.free.set()
        server.shutdown()
        server.server_close()


def config(tmp_path: Path, **notify: object) -> Config:
    return make_config({"store": str(tmp_path / "store"), "notify": notify})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("bad"), 2),
        (StoreBusyError("busy"), 3),
        (PseudolabelError("x"), 1),
        (OSError(), 1),
    ],
)
def test_every_failure_is_told_once(tmp_path: Path, error: Exception, code: int) -> None:
    asked = config(tmp_path, on_failure=keeping(tmp_path / "told"))
    with pytest.raises(type(error)), watched(asked), watched(asked):
        raise error
    [message] = told(tmp_path / "told")
    assert (message["event"], message["exit_code"]) == ("failure", code)
    assert (message["kind"], message["error"]) == (type(error).__name__, str(error))
    assert not (tmp_path / "store").exists()


def test_who_stops_a_run_need_not_be_told(tmp_path: Path) -> None:
    asked = config(tmp_path, on_failure=keeping(tmp_path / "told"))
    with pytest.raises(KeyboardInterrupt), watched(asked):
        raise KeyboardInterrupt
    with watched(asked):
        pass
    assert told(tmp_path / "told") == []


@pytest.mark.parametrize(
    ("drift", "bar", "times"),
    [
        ("none", "some", 0),
        ("not known", "some", 0),
        ("some", "some", 1),
        ("some", "strong", 0),
        ("strong", "strong", 1),
    ],
)
def test_drift_is_told_from_the_level_asked_for(
    tmp_path: Path, drift: str, bar: str, times: int
) -> None:
    asked = config(tmp_path, on_drift=keeping(tmp_path / "told"), drift=bar)
    page = "runs/run/report.html"
    tell_drift(asked, "run", ReportSummary("s", None, page, drift, "because", None))
    messages = told(tmp_path / "told")
    assert len(messages) == times
    for message in messages:
        assert (message["run_id"], message["drift"]) == ("run", drift)
        assert message["report"] == f"{tmp_path}/store/runs/run/report.html"


def test_the_command_line_tells_of_a_bad_config_and_fails_as_before(tmp_path: Path) -> None:
    hook = f"notify.on_failure={json.dumps(keeping(tmp_path / 'told'))}"
    run = pseudolabel(
        *("run", str(tmp_path / "no-such-folder"), "--labels", "a,b", "--set", hook),
        cwd=tmp_path,
    )
    assert run.returncode == 2
    [message] = told(tmp_path / "told")
    assert "no-such-folder" in str(message["error"])


def test_a_webhook_is_told_again_where_its_server_stumbles(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("flows.notify.time.sleep", slept.append)
    with webhook(503, 429) as server:
        assert call_hook(server.url, {"event": "drift", "reason": "ä"}, NotifyConfig())
        content = (f"/{SECRET}", "application/json", {"event": "drift", "reason": "ä"})
        assert server.bodies == [content] * 3
        assert slept == [1, 2]
        server.statuses = [404]
        assert not call_hook(server.url, {}, NotifyConfig())  # it would say so again
        assert len(server.bodies) == 4
        server.statuses = [500, 500]
        assert not call_hook(server.url, {}, NotifyConfig(tries=2))
    assert not call_hook(server.url, {}, NotifyConfig(tries=2))  # nobody is there
    assert "answered 404" in caplog.text
    assert SECRET not in caplog.text


def test_the_environment_holds_what_a_config_should_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook() as server:
        monkeypatch.setenv("HOOK_TOKEN", SECRET)
        url = server.url.replace(SECRET, "$HOOK_TOKEN")
        assert call_hook(url, {}, NotifyConfig())
        assert server.bodies == [(f"/{SECRET}", "application/json", {})]


def test_what_hangs_is_left_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    started = time.monotonic()
    short = NotifyConfig(timeout_seconds=0.5, tries=1)
    with webhook(0) as server:
        assert not call_hook(server.url, {}, short)
    child = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    assert not call_hook(("sh", "-c", child), {}, short)
    assert time.monotonic() - started < 30
    assert "no answer within 0.5 s" in caplog.text
    assert "did not end within 0.5 s" in caplog.text
    # What it had started went with it; a killed process takes a moment.
    started_by_it = int((tmp_path / "pid").read_text())
    wait_until(lambda: not alive(started_by_it), 15)


@pytest.mark.parametrize(
    ("hook", "says"),
    [
        (("/no/such/command", "secret"), "cannot be started"),
        (("sh", "-c", "echo oh no >&2; exit 7"), "ended with 7: oh no"),
        (("true",), ""),  # it reads nothing of what it is told
        ("sh -c 'exit 3'", "ended with 3"),
    ],
)
def test_a_broken_command_is_logged_and_no_more(
    hook: str | tuple[str, ...], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    message: dict[str, object] = {"long": "x" * 1_000_000}
    assert call_hook(hook, message, NotifyConfig()) == (not says)
    assert says in caplog.text
    assert "secret" not in caplog.text


def test_nothing_of_a_command_goes_through_a_shell(tmp_path: Path) -> None:
    place = tmp_path / "a; touch b"
    assert call_hook(keeping(place), {"event": "drift"}, NotifyConfig())
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


def test_what_is_kept_of_a_config_holds_no_secret(tmp_path: Path) -> None:
    asked = config(
        tmp_path,
        on_failure=f"https://user:pw@hooks.example/{SECRET}",
        on_drift=("curl", "-H", SECRET),
    )
    kept = json.dumps(redacted(asked))
    assert SECRET not in kept and "pw" not in kept
    assert "https://hooks.example/" in kept


def test_a_command_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"notify.on_failure = \"sh -c 'x\": no command"):
        make_config({"notify": {"on_failure": "sh -c 'x"}})
