"""What of the Ray engine needs no cluster: who fits where, what a worker sees, mistakes."""

import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows import ray_cluster
from flows.ray_cluster import Share, cluster, share_of
from flows.ray_worker import Worker, begin
from pipeline.clip.embed import EmbedSummary
from pipeline.clip.sharing import Permit, committed, permit
from pipeline.config import Config
from pipeline.cores import cores, take_share
from pipeline.errors import InputError, StoreError
from pipeline.images.scan import find_changes, record_changes
from pipeline.knobs_of_run import RunConfig
from pipeline.locking import writer_lock
from pipeline.opening import create_store
from pipeline.store import Store
from tests.conftest import demo_config, pseudolabel
from tests.test_embed import paint

RUN = "20240101T000000000000"
GPU_BOX, SMALL = {"CPU": 64.0, "GPU": 8.0, "memory": 1e11}, {"CPU": 4.0}


@pytest.mark.parametrize(
    ("asked", "machines", "share", "room"),
    [
        ({}, [SMALL], Share(4, 0), 1),  # a worker has a machine to itself
        ({}, [SMALL, {"CPU": 64.0}], Share(4, 0), 17),
        ({"num_cpus": 2}, [SMALL, SMALL], Share(2, 0), 4),
        ({"num_cpus": 0.5}, [SMALL], Share(0.5, 0), 8),
        ({"num_gpus": 1}, [GPU_BOX, SMALL], Share(8, 1), 8),  # the one without GPUs has none
        ({"num_gpus": 0.5}, [GPU_BOX], Share(4, 0.5), 16),
        ({"num_gpus": 2, "num_cpus": 3}, [GPU_BOX, GPU_BOX], Share(3, 2), 8),
    ],
)
def test_each_worker_takes_its_share_of_a_machine(
    asked: dict[str, float], machines: list[dict[str, float]], share: Share, room: int
) -> None:
    found = share_of(RunConfig.model_validate(asked), machines)
    assert found == share
    assert found.fits(machines) == room


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"num_gpus": 1}, "CPUs and GPUs of each: 4 and 0, 2 and 0"),
        ({"num_cpus": 8}, "run.num_cpus = 8, run.num_gpus = 0: no machine"),
        ({"num_gpus": 1.5}, "run.num_gpus = 1.5: above 1 Ray takes whole numbers"),
    ],
)
def test_what_no_machine_has_is_told(asked: dict[str, float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        share_of(RunConfig.model_validate(asked), [SMALL, {"CPU": 2.0}])


def test_without_ray_the_cure_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "pseudolabel\[ray\]"'), cluster(""):
        pass


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_cluster_that_does_not_answer_is_told_at_once(form: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = form.format(taken.getsockname()[1])
        with pytest.raises(InputError, match=f'run.ray_address = "{address}"'), cluster(address):
            pass


def test_a_process_that_takes_a_share_counts_no_more_cores(own_share: None) -> None:
    there = cores()
    take_share(there + 5)
    assert cores() == there
    take_share(1)
    assert cores() == 1


@pytest.fixture
def own_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this process its cores afterwards."""
    monkeypatch.setattr("pipeline.cores._share", [])


@pytest.fixture
def config(tmp_path: Path) -> Config:
    for number in range(5):
        paint(tmp_path / "in" / f"{number}.png", (40 * number, 20, 80))
    return demo_config(tmp_path / "store", sources=[str(tmp_path / "in")], run={"shard_rows": 2})


@pytest.fixture
def locked(config: Config) -> Iterator[Store]:
    """A store whose lock is held, and which has a plan of three shards."""
    store, now = create_store(config.store), datetime.now(UTC)
    with writer_lock(store):
        changes = find_changes(store, config.sources, settle_seconds=0, now=now)
        assert record_changes(store, changes, run_id=RUN, now=now, shard_rows=2).shards == 3
        yield store


def asked(config: Config, allowed: Permit) -> dict[str, object]:
    return {"config": config.model_dump(mode="json"), "run_id": RUN, "permit": asdict(allowed)}


def test_a_worker_asks_for_shards_and_tells_how_far_it_is(config: Config, locked: Store) -> None:
    worker = Worker(**asked(config, permit(locked, RUN, 0)))  # type: ignore[arg-type]
    ended: list[EmbedSummary] = []
    thread = threading.Thread(target=lambda: ended.append(worker.work()))
    thread.start()
    done, give = 0, [2, 0, 1, None]
    while thread.is_alive():
        news = worker.news()
        done += news.done
        if news.wants:
            worker.give(give.pop(0))
    thread.join()
    assert give == []
    assert done + worker.news().done == 5
    assert ended[0].embedded == 5
    assert committed(locked, RUN) == {0, 1, 2}


def test_a_worker_that_sees_another_store_refuses(
    config: Config, locked: Store, tmp_path: Path, own_share: None
) -> None:
    """As on a host that has a folder of the same name, or none."""
    for place in (tmp_path / "nothing", tmp_path / "empty"):
        if place.name == "empty":
            create_store(str(place))
        elsewhere = config.model_copy(update={"store": str(place)})
        told = begin(1, **asked(elsewhere, permit(locked, RUN, 0)))
        assert isinstance(told, str)
        assert f"{place} is not the one that this run writes to" in told
        assert socket.gethostname() in told


def test_a_worker_that_does_not_see_the_sources_refuses(
    config: Config, locked: Store, tmp_path: Path, own_share: None
) -> None:
    absent = config.model_copy(update={"sources": (str(tmp_path / "away"),)})
    told = begin(1, **asked(absent, permit(locked, RUN, 0)))
    assert isinstance(told, str)
    assert f"{tmp_path / 'away'}: no such folder on {socket.gethostname()}" in told
    worker = Worker(**asked(config, permit(locked, RUN, 1)))  # type: ignore[arg-type]
    for path in (tmp_path / "in").iterdir():  # as a disk that is not mounted here
        path.unlink()
    worker.give(0)
    with pytest.raises(
        InputError, match=f"Ray worker on {socket.gethostname()}: .*none of 2 files"
    ):
        worker.work()
    assert committed(locked, RUN) == set()


def test_a_worker_whose_permit_ended_writes_nothing(config: Config, locked: Store) -> None:
    allowed = permit(locked, RUN, 0)
    worker = Worker(**asked(config, allowed))  # type: ignore[arg-type]
    locked.delete(allowed.name)
    worker.give(0)
    worker.give(None)
    with pytest.raises(StoreError, match="may write no more"):
        worker.work()
    assert locked.parts("embeddings") == locked.parts("files") == []


def test_the_command_line_tells_a_wrong_address_in_a_line(config: Config, tmp_path: Path) -> None:
    run = pseudolabel(
        *("run", config.sources[0], "--labels", "dog,cat", "--store", config.store, "--plain"),
        *("--model", config.encoder.model, "--set", "run.engine=ray"),
        *("--set", "scan.settle_seconds=0", "--set", "run.ray_address=127.0.0.1:1"),
    )
    assert run.returncode == 2, run.stderr
    assert 'error: run.ray_address = "127.0.0.1:1": no Ray cluster answers there' in run.stderr
    assert "Traceback" not in run.stderr
