"""A schedule fires: a real Prefect server, a real `pseudolabel serve`, and a run nobody started."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.config import commented_toml
from tests.conftest import DATA, demo_config

BIN = Path(sys.executable).parent


@contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process group until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            cwd=log.parent,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(what: str, seconds: float, log: Path, condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:  # the server does not listen yet
            pass
        time.sleep(0.5)
    raise AssertionError(f"{what} not within {seconds} s; {log.name} says:\n{log.read_text()}")


def ask(url: str, content: object = None) -> object:
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_a_scheduled_run_labels_a_drop(tmp_path: Path) -> None:
    config = demo_config(tmp_path / "store").model_copy(
        update={"sources": (str(DATA / "images/animals"),)}
    )
    (tmp_path / "pseudolabel.toml").write_text(commented_toml(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    settings = {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    server = [str(BIN / "prefect"), "server", "start", "--port", str(port)]
    serve = [str(BIN / "pseudolabel"), "serve", "--every", "5"]
    server_log, serve_log = tmp_path / "server.log", tmp_path / "serve.log"
    with running(server, server_log, **settings):
        wait_for("server", 120, server_log, lambda: ask(f"{api}/health") is True)
        with running(serve, serve_log, **settings):
            # Serve itself begins the first run; the scheduler may be dead without a word.
            done = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}

            def ran() -> bool:
                runs = ask(f"{api}/flow_runs/filter", done)
                assert isinstance(runs, list)
                return any(run["auto_scheduled"] for run in runs)

            wait_for("completed run of the schedule", 150, serve_log, ran)
    [summary] = (tmp_path / "store/runs").glob("*/summary.json")
    assert json.loads(summary.read_text())["embed"]["embedded"] == 61  # of 62, two are the same
    log = serve_log.read_text()
    assert "Traceback" not in log
    assert "embed" in log  # the stages' own lines reach the log
