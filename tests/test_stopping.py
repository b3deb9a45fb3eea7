"""Signals and stalls end a process at once, whatever its main thread is doing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pipeline.config import commented_toml
from pipeline.opening import open_store
from tests.conftest import DATA, demo_config, run_plain
from tests.processes import Started, alive, started, wait_until

# One call into C that takes minutes and never comes back to Python; a child that must not stay.
_STUCK = """
import hashlib, signal, subprocess, sys
from flows.stopping import cleaned_by, stops_at_once
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup ignore it
child = subprocess.Popen(["sleep", "600"])
def clean(code, why):
    child.kill()
    child.wait()
    print("cleaned", code, flush=True)
with stops_at_once(), cleaned_by(clean):
    print("ready", child.pid, flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
"""


@contextmanager
def stuck(code: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Start a process that is stuck; yield it and its child's number."""
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as run:
        assert run.stdout is not None
        child = int(run.stdout.readline().split()[1])
        try:
            yield run, child
        finally:
            run.kill()
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_heard_while_the_main_thread_is_in_c(stop: int) -> None:
    with stuck(_STUCK) as (run, child):
        began = time.monotonic()
        run.send_signal(stop)
        out, said = run.communicate(timeout=20)
        assert run.returncode == 128 + stop
        assert time.monotonic() - began < 3
        assert out == f"cleaned {128 + stop}\n"
        assert said.strip() == "stopped; what was committed stays, and the next run goes on from it"
        assert not alive(child)


def test_a_cleaner_that_hangs_keeps_nobody() -> None:
    with stuck(_STUCK.replace("child.kill()", "import time; time.sleep(600)")) as (run, _):
        run.send_signal(signal.SIGTERM)
        assert run.wait(10) == 128 + signal.SIGTERM


def test_what_was_handled_before_is_handled_again_afterwards() -> None:
    code = (
        "import os, signal; from flows.stopping import stops_at_once\n"
        "heard = []; signal.signal(signal.SIGTERM, lambda *_: heard.append(1))\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does\n"
        "with stops_at_once(): os.kill(os.getpid(), signal.SIGHUP)\n"
        "os.kill(os.getpid(), signal.SIGTERM); print(heard)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (run.stdout, run.returncode) == ("[1]\n", 0), run.stderr


def test_a_plain_run_is_stopped_with_a_sentence_and_the_next_goes_on(tmp_path: Path) -> None:
    config = demo_config(tmp_path / "store", run={"shard_rows": 2, "compact_after": 0})
    (tmp_path / "pseudolabel.toml").write_text(commented_toml(config))
    with started("pseudolabel", "run", "--plain", cwd=tmp_path) as run:
        parts = committed(run, tmp_path, 3)
        assert run.stop(signal.SIGINT) == 130
        assert run.output.strip().endswith("and the next run goes on from it")
        assert "Traceback" not in run.output
    assert all(path.read_bytes() == content for path, content in parts.items())
    assert len(parts) < 122
    summary = run_plain(config)
    assert summary.embed.embedded < 242
    assert len(open_store(config.store).read("embeddings", ["image_id"])) == 242


def committed(run: Started, folder: Path, count: int) -> dict[Path, bytes]:
    """Wait for so many parts, and return them."""
    parts = folder / "store/embeddings"
    wait_until(lambda: len(list(parts.glob("*.parquet"))) >= count)
    return {path: path.read_bytes() for path in parts.glob("*.parquet")}


_STALLS = """
import sys, time
from flows.progress import listener
from flows.watchdog import ends_when_stalled
from pipeline.config import make_config
config = make_config({"store": sys.argv[1], "run": {"stall_seconds": 1}})
def compute(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
with ends_when_stalled(config):
    listener.get().stage("embed", 100)
    compute(2.5)  # loads a model: nothing is told yet
    for _ in range(8):
        listener.get().advance(1, 0)
        time.sleep(0.3)  # waits for a disk, and gets on
    listener.get().stage("index")
    compute(2.5)
    print("alive", flush=True)
    WHAT
print("outlived", flush=True)
"""
_HANGS = {
    "index waits": "time.sleep(60)",
    "embed loops": "listener.get().stage('embed', 9); listener.get().advance(1, 0); compute(60)",
    "nothing": "pass",
}


@pytest.mark.parametrize("what", sorted(_HANGS))
def test_what_does_nothing_any_more_is_ended(tmp_path: Path, what: str) -> None:
    code = _STALLS.replace("WHAT", _HANGS[what])
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert run.stdout.startswith("alive\n"), run.stderr
    if what == "nothing":
        assert (run.returncode, run.stdout) == (0, "alive\noutlived\n")
        return
    assert (run.returncode, run.stdout) == (1, "alive\n")
    assert f"{what.split()[0]}: nothing was done for 1 s (run.stall_seconds)" in run.stderr


def test_a_run_whose_disk_hangs_is_ended_and_the_next_goes_on(tmp_path: Path) -> None:
    config = demo_config(
        tmp_path / "store",
        sources=[str(DATA / "images/food")],
        run={"shard_rows": 5, "compact_after": 0, "stall_seconds": 3},
        train={"every_run": False},
    )
    (tmp_path / "pseudolabel.toml").write_text(commented_toml(config))
    hangs = (
        "import time, flows.cli; from pipeline.clip.commits import Shard\n"
        "write, done = Shard.write, []\n"
        "def slow(self, *given):\n"
        "    time.sleep(600) if len(done) == 2 else done.append(write(self, *given))\n"
        "Shard.write = slow\n"
        "import sys; sys.argv = ['pseudolabel', 'run', '--plain']; flows.cli.main()"
    )
    command = [sys.executable, "-c", hangs]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert run.returncode == 1, run.stderr
    assert "embed: nothing was done for 3 s (run.stall_seconds)" in run.stderr
    assert len(open_store(config.store).parts("embeddings")) == 2
    assert run_plain(config).embed.known == 0
    images = len(list((DATA / "images/food").rglob("*.*")))
    assert len(open_store(config.store).read("files")) == images
