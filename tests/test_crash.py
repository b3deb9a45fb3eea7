"""Nothing lost, nothing twice: after any crash the next run ends as an undisturbed one."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from pipeline.catalog import current_files
from pipeline.config import Config, commented_toml
from pipeline.folder import LocalFolder
from pipeline.labels.labelling import current_labels
from pipeline.locking import writer_lock
from pipeline.opening import create_store, open_store
from pipeline.reports.verify import verify
from tests.conftest import DATA, TINY, demo_config, run_plain
from tests.crashing import Runs, warm_runs

IMAGES, KILLS = 320, 40
OF_THE_RUN = ["run_id", "seen_at"]  # columns that tell of the run, not of the images


def final_tables(store: Path) -> dict[str, pl.DataFrame]:
    """Read what a store says in the end, without what tells of the run, in a fixed order."""
    opened = open_store(str(store))
    found = {
        "files": current_files(opened).drop(OF_THE_RUN),
        "embeddings": opened.read("embeddings"),
        "labels": opened.read(current_labels(opened).table),
        "selection": opened.read("selections/default"),
    }
    return {name: frame.sort(frame.columns[0]) for name, frame in found.items()}


def require_equal(store: Path, expected: dict[str, pl.DataFrame]) -> None:
    for name, frame in final_tables(store).items():
        assert frame.equals(expected[name]), name
    leftovers = [path for path in store.rglob("*") if path.name.startswith(".tmp-")]
    assert not leftovers
    assert not list(store.glob("plans/*"))


def many_images(folder: Path, count: int) -> Path:
    """Copy the demo's pictures, and vary some, until there are `count`; two are the same."""
    sources = sorted((DATA / "images").rglob("*.*"))
    for number in range(count):
        source = sources[number % len(sources)]
        target = folder / f"{number // 50}" / f"{number:03d}{source.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        data = source.read_bytes()
        target.write_bytes(data if number < len(sources) else data + bytes([number % 256]))
    first = next(folder.glob("0/000.*"))
    shutil.copy(first, first.with_stem("twin"))
    return folder


# What a matrix product gives for a row may differ in its last bit with the rows beside it.
ONE_BY_ONE = {"model": TINY, "device": "cpu", "precision": "fp32", "batch_size": 1}
FEW = {"label_set": "bird,cat,dog,kiwi,pear,shoes"}  # classes: the sheet of all takes long to draw


def small_shards(store: Path, source: Path) -> Config:
    return demo_config(
        store,
        sources=[str(source)],
        encoder=ONE_BY_ONE,
        labels=FEW,
        run={"shard_rows": 20, "compact_after": 6, "decode_workers": 2},
        train={"max_epochs": 2},
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with warm_runs(tmp_path_factory.mktemp("warm")) as started:
        yield started


@pytest.mark.timeout(900)
def test_killed_at_forty_random_moments_the_tables_end_the_same(runs: Runs, tmp_path: Path) -> None:
    source = many_images(tmp_path / "images", IMAGES)
    config = tmp_path / "pseudolabel.toml"

    def arguments(store: Path) -> list[str]:
        config.write_text(commented_toml(small_shards(store, source)))
        return ["run", "--plain", "--json", "--config", str(config)]

    undisturbed = runs.run(*arguments(tmp_path / "undisturbed"))
    assert undisturbed.code == 0, undisturbed.output
    expected = final_tables(tmp_path / "undisturbed")
    assert len(expected["embeddings"]) > 300
    chance = random.Random(7)
    moments: list[tuple[int, ...]] = []
    for chain in range(KILLS):
        store = tmp_path / f"store-{chain}"
        while len(moments) < KILLS:
            after = chance.uniform(0.02, 0.8 * undisturbed.seconds)
            ended = runs.run(*arguments(store), kill_after=after)
            if ended.code == 0:
                break
            assert ended.code == -signal.SIGKILL, ended.output
            moments.append(how_far(store))
        ended = runs.run(*arguments(store))
        assert ended.code == 0, ended.output
        require_equal(store, expected)
        if len(moments) == KILLS:
            break
    assert len(moments) == KILLS
    # The kills were spread over the stages, and not all before or after the work.
    assert len(set(moments)) >= 8, sorted(set(moments))


def how_far(store: Path) -> tuple[int, ...]:
    """Return how many files of each kind a store holds."""
    tables = ("files", "embeddings", "labels/*/*", "index", "selections/*", "models/*", "runs/*")
    return tuple(len(list(store.glob(f"{table}/*"))) for table in tables)


class Faults:
    """Stands before a folder's writes and deletes, and lets the n-th of them go wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.at = 0, -1
        self.error: Callable[[], BaseException] = KeyboardInterrupt
        for method in ("write", "delete"):
            self._wrap(monkeypatch, method)

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        real = getattr(LocalFolder, method)

        def stands_before(folder: LocalFolder, name: str, *data: bytes) -> None:
            self._step(lambda: self._half_written(folder, name, *data))
            real(folder, name, *data)
            self._step(lambda: None)  # done, but nobody hears of it

        monkeypatch.setattr(LocalFolder, method, stands_before)

    def _step(self, trace: Callable[[], None]) -> None:
        self.count += 1
        if self.count == self.at:
            trace()
            raise self.error()

    def _half_written(self, folder: LocalFolder, name: str, *data: bytes) -> None:
        place = (folder.root / name).parent / ".tmp-half"
        for content in data:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content[: len(content) // 2])


def no_space() -> OSError:
    return OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many_images(tmp_path_factory.mktemp("thirty"), 30)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("error", [KeyboardInterrupt, no_space], ids=["killed", "disk-full"])
def test_each_write_in_turn_goes_wrong_and_the_tables_end_the_same(
    thirty: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], BaseException],
) -> None:
    """Two drops: the faults fall on a first run, and on a later one that also compacts."""
    faults = Faults(monkeypatch)
    early, late = tmp_path / "early", tmp_path / "images"
    shutil.copytree(thirty / "0", early)
    for path in sorted(early.iterdir())[:12]:
        path.unlink()

    def take(store: Path, source: Path) -> None:
        run = {"shard_rows": 10, "compact_after": 2}
        train = {"every_run": False}
        sections = {"encoder": ONE_BY_ONE, "labels": FEW, "run": run, "train": train}
        config = demo_config(store, sources=[str(late)], **sections)
        shutil.rmtree(late, ignore_errors=True)
        shutil.copytree(source, late)
        run_plain(config)

    for source in (early, thirty / "0"):
        take(tmp_path / "undisturbed", source)
    expected, total = final_tables(tmp_path / "undisturbed"), faults.count
    assert total > 80
    # Before and after every write are two steps: an odd stride meets both.
    for at in range(1, total + 1, 7 if error is no_space else 5):
        store = tmp_path / f"store-{at}"
        faults.count, faults.at, faults.error = 0, at, error
        for source in (early, thirty / "0"):
            try:
                take(store, source)
            except (KeyboardInterrupt, OSError):
                take(store, source)
        require_equal(store, expected)
        shutil.rmtree(store)
    assert verify(open_store(str(tmp_path / "undisturbed")), now=datetime.now(UTC)).faults == []


def test_a_full_disk_is_told_in_a_line(thirty: Path, tmp_path: Path) -> None:
    """A file may not grow beyond 20 kB here, as on a disk that is nearly full."""
    config = tmp_path / "pseudolabel.toml"
    config.write_text(commented_toml(small_shards(tmp_path / "store", thirty)))
    command = [str(Path(sys.executable).with_name("pseudolabel")), "run", "--plain"]
    limited = ["bash", "-c", 'ulimit -f 20; trap "" XFSZ; exec "$0" "$@"', *command]
    run = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 1, run.stderr
    assert run.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "File too large" in run.stderr
    assert "Traceback" not in run.stderr


def test_of_two_runs_at_once_the_second_stops_or_waits(
    runs: Runs, thirty: Path, tmp_path: Path
) -> None:
    with warm_runs(tmp_path) as others:
        store = tmp_path / "store"
        config = tmp_path / "pseudolabel.toml"
        config.write_text(commented_toml(small_shards(store, thirty)))
        arguments = ["run", "--plain", "--json", "--config", str(config)]
        create_store(str(store))
        with writer_lock(open_store(str(store))):
            refused = others.run(*arguments)
            pid, started = others.start(*arguments, "--wait"), time.monotonic()
            time.sleep(1)
            os.kill(pid, 0)  # it waits
        assert refused.code == 3, refused.output
        assert f"is being written by process {os.getpid()} on " in refused.output
        first = runs.start(*arguments, "--wait")
        assert first != pid
        ended = [others.end(started), runs.end(started)]
        assert [run.code for run in ended] == [0, 0], ended
    assert len(final_tables(store)["files"]) == 31
    assert open_store(str(store)).read("files")["path"].n_unique() == 31
    assert len(open_store(str(store)).read("files")) == 31
