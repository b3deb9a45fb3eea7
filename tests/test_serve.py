"""`serve` as a user starts it: with its own server, killed at the worst moments, and stopped."""

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.config import commented_toml
from pipeline.errors import InputError
from pipeline.labels.labelling import current_labels
from pipeline.opening import open_store, peek_store
from tests.conftest import DATA, demo_config, pseudolabel
from tests.processes import Started, alive, ask_prefect, free_port, started, wait_until
from tests.test_cli import Command, command  # noqa: F401 - a fixture

IMAGES = 242  # of the demo, without copies and broken ones


class Serve:
    """A folder to serve, and what Prefect says of its runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ui, self.metrics = folder, free_port(), free_port()
        self.store, self.source = folder / "store", folder / "in"
        self.source.mkdir()
        config = demo_config(
            self.store,
            sources=[str(self.source)],
            run={"shard_rows": 2, "compact_after": 0},
            train={"every_run": False},
            metrics={"port": self.metrics},
        )
        (folder / "pseudolabel.toml").write_text(commented_toml(config))

    def start(self, *when: str) -> Any:
        home = {"PREFECT_HOME": str(self.folder / "home")}
        port = {"PREFECT_SERVER_API_PORT": str(self.ui)}
        return started("pseudolabel", "serve", *when, cwd=self.folder, **home, **port)

    def parts(self) -> list[Path]:
        return sorted((self.store / "embeddings").glob("*.parquet"))

    def embedded(self) -> int:
        return len(peek_store(str(self.store)).read("embeddings", ["image_id"]))

    def labelled(self) -> int:
        try:
            store = open_store(str(self.store))
            return len(store.read(current_labels(store).table, ["image_id"]))
        except InputError:
            return 0

    def numbers(self) -> str:
        url = f"http://127.0.0.1:{self.metrics}/metrics"
        return str(urllib.request.urlopen(url, timeout=30).read().decode())

    def runs(self) -> list[dict[str, Any]]:
        return list(ask_prefect(f"http://127.0.0.1:{self.ui}", "flow_runs/filter", {}))

    def states(self) -> set[str]:
        return {run["state_name"] for run in self.runs()}


def mid_run(serve: Serve, run: Started, more: int) -> int:
    """Wait until a run has committed so many parts more; return its process."""
    before = len(serve.parts())
    wait_until(lambda: len(serve.parts()) >= before + more)
    [child] = [pid for pid in run.look() if b"spawn_main" in command_of(pid)]
    return child


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.timeout(600)
def test_drops_are_labelled_whatever_is_killed_between(tmp_path: Path) -> None:
    serve = Serve(tmp_path)
    shutil.copytree(DATA / "images/food/kiwi", serve.source / "first")
    with serve.start("--every", "5") as run:
        wait_until(lambda: serve.labelled() == 12)
        assert f"http://127.0.0.1:{serve.ui} shows the runs" in run.output
        page = urllib.request.urlopen(f"http://127.0.0.1:{serve.ui}/", timeout=30).read()
        assert b"Prefect" in page
        wait_until(lambda: 'pseudolabel_files{status="ok"} 12' in serve.numbers())
        # The run is killed: it is told at once, and its place is free for the next tick.
        shutil.copytree(DATA / "images", serve.source / "second")
        os.kill(mid_run(serve, run, 3), signal.SIGKILL)
        wait_until(lambda: "Crashed" in serve.states(), 20)
        # The next run, which the clock has begun, is killed together with all of serve.
        child = mid_run(serve, run, 3)
        assert any(r["auto_scheduled"] for r in serve.runs() if r["state_name"] == "Running")
        assert serve.embedded() < IMAGES
        committed = {path: path.read_bytes() for path in serve.parts()}
        os.kill(run.process.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, run.ever)), 15)
        assert child in run.ever
    with serve.start("--watch") as run:
        wait_until(lambda: serve.embedded() == serve.labelled() == IMAGES)
        assert all(path.read_bytes() == content for path, content in committed.items())
        wait_until(lambda: "Completed" in serve.states() and "Running" not in serve.states())
        assert "Late" not in serve.states()  # what was due while nobody served is not made up for
        crashed = [r["state"]["message"] for r in serve.runs() if r["state_name"] == "Crashed"]
        assert len(crashed) == 2
        assert any("status code: -9" in message for message in crashed), crashed
        # A third drop, during which Ctrl-C is pressed.
        varied(DATA / "images/animals", serve.source / "third")
        mid_run(serve, run, 3)
        os.killpg(run.process.pid, signal.SIGINT)  # as a terminal sends it: to the run as well
        assert run.process.wait(20) == 0
        wait_until(lambda: not any(map(alive, run.ever)), 15)
        assert "stopped; what was committed stays" in run.output
        assert "Traceback" not in run.output, run.output
    assert serve.embedded() > IMAGES
    with pytest.raises(httpx.ConnectError):
        serve.runs()


def varied(source: Path, target: Path) -> None:
    """Copy pictures so that each is another image; what follows a JPEG's end is not decoded."""
    target.mkdir()
    for path in source.rglob("*.jpg"):
        (target / path.name).write_bytes(path.read_bytes() + b"varied")


_MAIN = """
import multiprocessing, signal
import flows.cli
def tell():
    print(signal.getsignal(signal.SIGINT).name)
if __name__ == "__main__":
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
    run = multiprocessing.get_context("spawn").Process(target=tell)
    run.start()
    run.join()
"""


def test_ctrl_c_is_for_serve_alone_and_not_for_a_run_that_still_imports(tmp_path: Path) -> None:
    main = tmp_path / "main.py"
    main.write_text(_MAIN)
    run = subprocess.run([sys.executable, str(main)], capture_output=True, text=True, timeout=60)
    assert run.stdout == "True\nSIG_IGN\n", run.stderr


def test_it_is_stopped_while_its_server_starts(tmp_path: Path) -> None:
    with Serve(tmp_path).start("--every", "5") as run:
        wait_until(lambda: any(b"local_server" in command_of(pid) for pid in run.look()))
        assert run.stop(signal.SIGTERM) == 0
        assert "shows the runs" not in run.output
        assert "Traceback" not in run.output, run.output


def test_what_cannot_be_served_is_told_before_a_server_starts(
    command: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Serve(tmp_path)
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "INFO")  # what serve sets must not stay set
    before = signal.getsignal(signal.SIGTERM)
    for arguments, says in (
        ((), "give one of --every SECONDS, --cron EXPRESSION and --watch"),
        (("--every", "5", "--watch"), "give one of"),
        (("--cron", "every day"), "--cron 'every day': is no cron expression"),
        (("--cron", "0 0 31 2 *"), "--cron '0 0 31 2 *': there is no such time"),
        (("--every", "inf"), "'--every'"),
        (("--every", "5", "--set", "sources=['gone']"), "source gone: no such folder"),
    ):
        ended = command("serve", *arguments)
        assert ended.code == 2, ended.err
        assert says in ended.err
    assert signal.getsignal(signal.SIGTERM) == before


def test_deploy_needs_a_server_that_stays(tmp_path: Path) -> None:
    Serve(tmp_path)
    run = pseudolabel("deploy", cwd=tmp_path, PREFECT_HOME=str(tmp_path / "home"))
    assert run.returncode == 2
    assert "deploy needs a Prefect server that stays" in run.stderr
    assert "Traceback" not in run.stderr
