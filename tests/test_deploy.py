"""Deployments on a real server, run by a real process worker; and what tasks do about trouble."""

import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)

from flows import serving
from flows.retries import may_pass
from flows.runners import PrefectTasks
from pipeline.config import commented_toml
from pipeline.errors import DamagedFileError, InputError, StorageError, StoreBusyError, StoreError
from pipeline.locking import writer_lock
from pipeline.opening import create_store, open_store
from pipeline.remote import RefusedError, TransferError
from tests.conftest import DATA, ROOT, demo_config, pseudolabel
from tests.processes import Started, ask_prefect, free_port, started, wait_until


@dataclass
class Prefect:
    """A server that stays, and the environment of its clients."""

    url: str
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"PREFECT_API_URL": f"{self.url}/api", "PREFECT_HOME": str(self.home)}

    def post(self, route: str, content: dict[str, Any]) -> Any:
        return ask_prefect(self.url, route, content)

    def get(self, route: str) -> Any:
        return ask_prefect(self.url, route)

    def begin(self, deployment: str, **parameters: object) -> str:
        """Begin a run of a deployment, and return its id."""
        number = self.get(f"deployments/name/{deployment}")["id"]
        begun = self.post(f"deployments/{number}/create_flow_run", {"parameters": parameters})
        return str(begun["id"])

    def end(self, run: str) -> dict[str, Any]:
        """Wait for the end of a run, and return it."""
        final = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
        wait_until(lambda: self.get(f"flow_runs/{run}")["state_type"] in final, 120)
        return dict(self.get(f"flow_runs/{run}"))

    def logs(self, run: dict[str, Any]) -> str:
        wanted = {"logs": {"flow_run_id": {"any_": [run["id"]]}}}
        return "\n".join(line["message"] for line in self.post("logs/filter", wanted))


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    folder, port = tmp_path_factory.mktemp("prefect"), free_port()
    settings = {
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    with started("prefect", "server", "start", cwd=folder, **settings):
        found = Prefect(f"http://127.0.0.1:{port}", folder)

        def answers() -> bool:
            try:
                return bool(found.get("health"))
            except httpx.HTTPError:
                return False

        wait_until(answers, 120)
        yield found


@pytest.fixture(scope="module")
def worker(prefect: Prefect, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("worker")
    words = ("worker", "start", "--pool", "tests", "--type", "process")
    often = {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    with started("prefect", *words, cwd=folder, **prefect.environment, **often) as run:
        yield run


@pytest.mark.timeout(300)
def test_a_deployment_is_run_by_a_process_worker(
    prefect: Prefect, worker: Started, tmp_path: Path
) -> None:
    shutil.copytree(DATA / "images/food/kiwi", tmp_path / "in")
    config = demo_config(tmp_path / "store", train={"every_run": False}, sources=["in"])
    text = commented_toml(config).replace(str(tmp_path / "store"), "store")  # relative
    (tmp_path / "pseudolabel.toml").write_text(text)
    words = ("deploy", "--pool", "tests", "--name", "small", "--every", "86400", "--json")
    run = pseudolabel(*words, cwd=tmp_path, **prefect.environment)
    assert run.returncode == 0, run.stderr
    flows = ["label-images", "relabel-images", "train-model", "caption-images"]
    assert json.loads(run.stdout)["deployments"] == [f"{flow}/small" for flow in flows]
    deployed = prefect.get("deployments/name/label-images/small")
    assert deployed["schedules"][0]["schedule"]["interval"] == 86400
    assert deployed["global_concurrency_limit"]["limit"] == 1
    assert deployed["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert prefect.get("work_pools/tests")["type"] == "process"

    done = prefect.end(prefect.begin("label-images/small"))
    assert done["state_type"] == "COMPLETED", (done["state"], worker.output)
    assert len(open_store(str(tmp_path / "store")).read("embeddings")) == 12
    assert "Downloading flow code" not in prefect.logs(done)  # of the worker's working folder

    nowhere = {"store": str(tmp_path / "nowhere"), "sources": []}
    with writer_lock(open_store(str(tmp_path / "store"))):
        wrong = prefect.begin("train-model/small", config=nowhere)
        busy = prefect.end(prefect.begin("label-images/small"))
    assert (busy["state_type"], busy["state_name"]) == ("CANCELLED", "Skipped")
    assert "is being written by process" in busy["state"]["message"]
    failed = prefect.end(wrong)
    assert failed["state_type"] == "FAILED"
    assert f"{tmp_path}/nowhere: no store here" in failed["state"]["message"]
    assert "Traceback" not in prefect.logs(busy) + prefect.logs(failed)
    assert "Traceback" not in worker.output, worker.output


@pytest.mark.timeout(120)
def test_the_plain_prefect_command_deploys_the_flows(prefect: Prefect) -> None:
    command = [str(Path(sys.executable).with_name("prefect")), "--no-prompt", "deploy"]
    entrypoint = "flows/label_images.py:label_images"
    run = subprocess.run(
        [*command, entrypoint, "--name", "plain", "--pool", "tests"],
        cwd=ROOT,
        env={**os.environ, **prefect.environment},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert prefect.get("deployments/name/label-images/plain")["entrypoint"] == entrypoint


@pytest.mark.parametrize(
    ("name", "pool", "says"),
    [
        ("photos/daily", "photos", "--name 'photos/daily': Prefect's names have no /"),
        ("photos", "a<b>", "--pool 'a<b>': Prefect's names have no < >"),
        ("photos", "Prefect-photos", "begin with prefect"),
    ],
)
def test_names_that_prefect_refuses_are_told(
    tmp_path: Path, name: str, pool: str, says: str
) -> None:
    from flows.schedule import When, register

    with pytest.raises(InputError, match=says):
        register(demo_config(tmp_path / "store"), When(), name=name, pool=pool)


def test_what_a_killed_serve_has_left_is_put_right(prefect: Prefect, tmp_path: Path) -> None:
    """As after a power cut, which nobody outlives to tell of."""
    (tmp_path / "in").mkdir()
    config = demo_config(tmp_path / "store", sources=[str(tmp_path / "in")])

    async def left() -> tuple[str, list[str]]:
        from prefect.client.orchestration import get_client
        from prefect.runner import Runner

        from flows.label_images import label_images
        from flows.schedule import When, served
        from flows.serving import _tidy

        settings = served(config, When(every=86400))
        async with get_client() as client:
            number = await Runner("tests").aadd_flow(label_images, **settings)
            ids = []
            for state in ("RUNNING", "PENDING"):
                begun = await client.create_flow_run_from_deployment(number)
                changed = {"state": {"type": state}, "force": True}
                prefect.post(f"flow_runs/{begun.id}/set_state", changed)
                ids.append(str(begun.id))
            await _tidy(client, number)
            return str(number), ids

    with temporary_settings({PREFECT_API_URL: f"{prefect.url}/api"}):
        number, ids = asyncio.run(left())
    for run in ids:
        state = prefect.get(f"flow_runs/{run}")["state"]
        assert state["type"] == "CRASHED"
        assert "what ran it was killed" in state["message"]
    assert prefect.get(f"deployments/{number}")["global_concurrency_limit"]["active_slots"] == 0


def test_ticks_that_nobody_served_are_dropped_however_many(
    prefect: Prefect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    config = demo_config(tmp_path / "store", sources=[str(tmp_path / "in")])
    monkeypatch.setattr(serving, "_PAGE", 2)
    now = datetime.now(UTC)

    async def made() -> str:
        from prefect.runner import Runner

        from flows.label_images import label_images
        from flows.schedule import When, served

        settings = served(config, When(every=86400))
        return str(await Runner("tests").aadd_flow(label_images, **settings))

    async def tidied(number: str) -> None:
        from prefect.client.orchestration import get_client

        async with get_client() as client:
            await serving._tidy(client, UUID(number))

    def dates(number: str) -> list[datetime]:
        wanted = {"flow_runs": {"deployment_id": {"any_": [number]}}}
        runs = prefect.post("flow_runs/filter", wanted)
        return [datetime.fromisoformat(run["expected_start_time"]) for run in runs]

    with temporary_settings({PREFECT_API_URL: f"{prefect.url}/api"}):
        number = asyncio.run(made())
        week = {"start_time": (now - timedelta(days=7)).isoformat(), "min_runs": 9, "max_runs": 9}
        prefect.post(f"deployments/{number}/schedule", week)
        assert sum(date < now for date in dates(number)) == 7
        asyncio.run(tidied(number))
    assert min(dates(number)) > now


@pytest.mark.timeout(120)
def test_a_run_on_this_server_is_stopped_at_once_and_reported(
    prefect: Prefect, tmp_path: Path
) -> None:
    config = demo_config(tmp_path / "store", run={"shard_rows": 2, "compact_after": 0})
    (tmp_path / "pseudolabel.toml").write_text(commented_toml(config))
    with started("pseudolabel", "run", cwd=tmp_path, **prefect.environment) as run:
        parts = tmp_path / "store/embeddings"
        wait_until(lambda: len(list(parts.glob("*.parquet"))) >= 3)
        assert run.stop(signal.SIGTERM) == 143
        assert "stopped; what was committed stays" in run.output
        assert "Traceback" not in run.output, run.output
    runs = prefect.post("flow_runs/filter", {})
    [mine] = [r for r in runs if r["parameters"]["config"]["store"] == config.store]
    assert mine["state_type"] in ("CANCELLED", "CRASHED"), mine["state"]
    assert create_store(config.store).parts("embeddings")


@pytest.mark.parametrize(
    ("fault", "again"),
    [
        (StorageError("does not answer"), True),
        (TransferError("not fetched after 3 attempts"), True),
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (TimeoutError("timed out"), True),
        (OSError(5, "Input/output error"), True),
        (OSError(116, "Stale file handle"), True),
        (httpx.ConnectError("refused"), True),
        (RefusedError("not stored after 1 attempt"), False),
        (OSError(28, "No space left on device"), False),
        (OSError(30, "Read-only file system"), False),
        (FileNotFoundError(2, "No such file or directory"), False),
        (PermissionError(13, "Permission denied"), False),
        (InputError("bad label set"), False),
        (StoreBusyError("busy"), False),
        (StoreError("the write lock was lost"), False),
        (DamagedFileError("store", "a.parquet", "cut short"), False),
        (ValueError("a fault of ours"), False),
    ],
)
def test_only_trouble_of_storage_may_pass(fault: Exception, again: bool) -> None:
    assert may_pass(fault) is again


@pytest.mark.parametrize(
    ("faults", "calls", "ends"),
    [
        ([StorageError("no answer"), TimeoutError()], 3, None),
        ([StorageError("no answer")] * 9, 4, StorageError),
        ([InputError("bad")], 1, InputError),
    ],
)
def test_a_task_is_tried_again_with_back_off(
    prefect: Prefect,
    monkeypatch: pytest.MonkeyPatch,
    faults: list[Exception],
    calls: int,
    ends: type[Exception] | None,
) -> None:
    from prefect import flow

    monkeypatch.setattr("flows.runners.BACK_OFF", (0.1, 0.2, 0.4))
    began: list[float] = []

    def step() -> str:
        began.append(time.monotonic())
        if len(began) <= len(faults):
            raise faults[len(began) - 1]
        return "done"

    @flow(name="retried", persist_result=False)
    def retried() -> str:
        return PrefectTasks().run("step", step)

    settings = {PREFECT_API_URL: f"{prefect.url}/api", PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with temporary_settings(settings):
        if ends:
            with pytest.raises(ends):
                retried()
        else:
            assert retried() == "done"
    assert len(began) == calls
    waits = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert all(wait >= least for wait, least in zip(waits, (0.1, 0.2, 0.4), strict=False)), waits
