"""A real Ray cluster of two machines, both of them here: a run on it ends as a run without it.

One worker is killed meanwhile. The pictures are small; each is embedded by itself, for what a
matrix product gives for a row may differ in its last bit with the rows beside it.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config import Config, commented_toml
from pipeline.opening import open_store
from tests.conftest import ROOT, demo_config, run_plain
from tests.processes import descendants
from tests.test_crash import ONE_BY_ONE, final_tables, require_equal

IMAGES, SHARD = 2000, 100
# As a real cluster has it: who does not know the token may do nothing.
SET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "OMP_NUM_THREADS": "1",
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def two_machines() -> Iterator[str]:
    """A cluster of two raylets with a core each; its address."""
    folder = tempfile.mkdtemp(prefix="ray-")  # a socket's path may have 107 letters
    here = {**SET, "RAY_TMPDIR": folder}
    before = {name: os.environ.get(name) for name in here}
    os.environ.update(here)
    from ray.cluster_utils import Cluster  # type: ignore[import-not-found,unused-ignore]

    each = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster: Any = Cluster()
    try:
        cluster.add_node(**each)
        cluster.add_node(**each)
        cluster.wait_for_nodes()
        yield str(cluster.address)
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pictures; every 40th has the bytes of one in another shard, two files are none."""
    folder, chance = tmp_path_factory.mktemp("in"), np.random.default_rng(0)
    for number in range(IMAGES):
        path = folder / f"{number:04}.png"
        if number % 40 == 39:
            shutil.copy(folder / f"{number - 39 + number // 40 % 30:04}.png", path)
        else:
            noise = chance.integers(0, 256, (4, 4, 3), np.uint8)
            Image.fromarray(noise).resize((24, 24)).save(path)
    (folder / "0700.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("none either")
    return folder


def config_of(store: Path, source: Path, **run: object) -> Config:
    return demo_config(
        store,
        sources=[str(source)],
        encoder=ONE_BY_ONE,
        run={"shard_rows": SHARD, "compact_after": 0} | run,
        train={"every_run": False},
    )


def start(config: Config, folder: Path, said: IO[str], *options: str) -> "subprocess.Popen[str]":
    """Start a run as a user does."""
    (folder / "pseudolabel.toml").write_text(commented_toml(config))
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("pseudolabel")), "run", "--json", *options],
        cwd=folder,
        env={**os.environ, **SET},
        stdout=subprocess.PIPE,
        stderr=said,
        text=True,
    )


def workers() -> list[int]:
    """Return the processes that embed for Ray, of those that this process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_ours(int(entry.name)):
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::Actor"):
                found.append(int(entry.name))
    return sorted(found)


def is_ours(pid: int) -> bool:
    while pid > 1 and pid != os.getpid():
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return pid == os.getpid()


def parts(store: Path, table: str = "files") -> dict[str, int]:
    """Return the parts of a table, and the file that each is."""
    return {path.name: path.stat().st_ino for path in (store / table).glob("*.parquet")}


def test_a_worker_dies_and_the_tables_are_those_of_one_machine(
    two_machines: str, pictures: Path, tmp_path: Path
) -> None:
    store, log = tmp_path / "shared", tmp_path / "log"
    config = config_of(store, pictures, engine="ray", ray_address=two_machines)
    with log.open("w") as said, start(config, tmp_path, said, "--plain") as run:
        try:
            while len(parts(store)) < 4 or len(workers()) < 2:
                assert run.poll() is None, log.read_text()
                time.sleep(0.02)
            killed = workers()[0]
            os.kill(killed, signal.SIGKILL)
            done = parts(store)
            output = run.communicate(timeout=300)[0]
        finally:
            run.kill()
    assert run.returncode == 0, log.read_text()
    assert len(done) < IMAGES // SHARD / 2  # it was killed in the midst
    told = log.read_text().splitlines()
    assert len(told) == 1, told
    assert told[0].startswith("a Ray worker on ")
    assert killed not in workers()

    alone = run_plain(config_of(tmp_path / "alone", pictures))
    expected = final_tables(tmp_path / "alone")
    assert len(expected["files"]) == IMAGES + 1
    require_equal(store, expected)
    summary, counts = json.loads(output)["embed"], vars(alone.embed)
    assert {name: summary[name] for name in counts if name != "seconds"} == {
        name: count for name, count in counts.items() if name != "seconds"
    }
    assert summary["known"] == 50  # copies of what another shard has
    assert all(summary["seconds"][name] > 0 for name in ("reading", "inference", "writing"))
    # What was committed before is not done again: those files are still the same ones.
    assert {name: file for name, file in parts(store).items() if name in done} == done
    rows = open_store(str(store)).read("embeddings", ["image_id"])
    assert rows["image_id"].n_unique() == len(rows)


def test_what_the_cluster_cannot_do_is_told(
    two_machines: str, pictures: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(pictures / "0001.png", few)
    config = config_of(tmp_path / "store", few, engine="ray", ray_address=two_machines, num_gpus=1)
    with (tmp_path / "log").open("w+") as said, start(config, tmp_path, said, "--plain") as run:
        run.communicate(timeout=120)
        said.seek(0)
        error = said.read()
    assert run.returncode == 2, error
    assert "no machine of the Ray cluster has as much; CPUs and GPUs of each: 1 and 0" in error


def test_through_prefect_it_is_the_same(two_machines: str, pictures: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for number in range(5):
        shutil.copy(pictures / f"{number:04}.png", few)
    run_plain(config_of(tmp_path / "alone", few, shard_rows=2))
    ray = {"engine": "ray", "ray_address": two_machines, "shard_rows": 2}
    with (tmp_path / "log").open("w+") as said:
        with start(config_of(tmp_path / "store", few, **ray), tmp_path, said) as run:
            output = run.communicate(timeout=300)[0]
        said.seek(0)
        log = said.read()
    assert run.returncode == 0, log
    assert json.loads(output)["embed"]["embedded"] == 5
    require_equal(tmp_path / "store", final_tables(tmp_path / "alone"))


_OWN = """
import sys
from flows.ray_cluster import cluster
with cluster("") as ray:
    ray.get(ray.remote(lambda: 1).remote())
    print("here", file=sys.stderr, flush=True)
    sys.stdin.read()
"""


def test_a_cluster_of_this_machine_alone_listens_on_loopback_only() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _OWN], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdin is not None
        assert run.stderr is not None
        assert any(line == b"here\n" for line in run.stderr)
        heard = [each for pid in {run.pid, *descendants(run.pid)} for each in listening(pid)]
        run.stdin.close()
        assert run.wait(30) == 0
    assert len(heard) > 3
    assert set(heard) <= {"0100007F", "0000000000000000FFFF00000100007F"}


def listening(pid: int) -> list[str]:
    """Return the addresses that a process takes TCP connections at, as the kernel writes them."""
    sockets = set()
    for fd in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            sockets.add(str(fd.readlink()))
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return [
        row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets
    ]
