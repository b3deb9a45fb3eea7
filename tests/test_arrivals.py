"""File arrival: a run begins when there is work for it, and not before it has settled."""

import asyncio
import itertools
import shutil
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from flows import arrivals, hearing
from pipeline.config import Config
from tests.conftest import DATA, demo_config

KIWIS = sorted((DATA / "images/food/kiwi").iterdir())


class Runs:
    """Stands for runs: when they began, and what they do."""

    def __init__(self, does: Callable[[], bool] = lambda: True) -> None:
        self.began: list[float] = []
        self.does = does

    def number(self, count: int) -> bool:
        return len(self.began) == count

    async def __call__(self) -> bool:
        self.began.append(time.monotonic())
        return self.does()


def watched(config: Config, runs: Runs, during: Callable[[], Awaitable[None]]) -> None:
    """Watch for as long as `during` takes."""

    async def both() -> None:
        watching = asyncio.create_task(arrivals.watch(config, runs))
        try:
            await during()
            assert not watching.done(), watching.exception()
        finally:
            watching.cancel()

    asyncio.run(both())


async def until(true: Callable[[], object], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.02)


def drop_config(tmp_path: Path, **scan: float) -> Config:
    (tmp_path / "in").mkdir()
    settings: dict[str, object] = {"settle_seconds": 0, **scan}
    return demo_config(tmp_path / "store", sources=[str(tmp_path / "in")], scan=settings)


def taken_away(config: Config) -> bool:
    """Do as a run that takes all there is: afterwards nothing is new."""
    for path in Path(config.sources[0]).rglob("*.jpg"):
        path.unlink()
    return True


def test_a_file_that_arrives_begins_a_run(tmp_path: Path) -> None:
    config = drop_config(tmp_path)
    runs = Runs(lambda: taken_away(config))

    async def during() -> None:
        await asyncio.sleep(1)
        assert not runs.began
        for count in (1, 2):  # a folder that is new is watched, too
            folder = tmp_path / f"in/{count}"
            folder.mkdir()
            shutil.copyfile(KIWIS[0], folder / "kiwi.jpg")
            await until(partial(runs.number, count))
        await asyncio.sleep(2)
        assert len(runs.began) == 2

    watched(config, runs, during)


def test_a_file_that_waits_is_taken_when_it_has_settled_without_another_event(
    tmp_path: Path,
) -> None:
    config = drop_config(tmp_path, settle_seconds=4)
    runs = Runs(lambda: taken_away(config))

    async def during() -> None:
        await asyncio.sleep(0.5)
        shutil.copyfile(KIWIS[0], tmp_path / "in/kiwi.jpg")
        arrived = time.monotonic()
        await until(lambda: runs.began)
        assert 3.9 < runs.began[0] - arrived < 8

    watched(config, runs, during)


def test_what_tells_nothing_is_looked_at_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = drop_config(tmp_path, poll_seconds=1)
    monkeypatch.setattr(hearing, "_file_system", lambda _: "nfs4")
    assert hearing.split_sources(config.sources) == ([], list(config.sources))
    runs = Runs(lambda: taken_away(config))

    async def during() -> None:
        await asyncio.sleep(0.5)
        shutil.copyfile(KIWIS[0], tmp_path / "in/kiwi.jpg")
        await until(lambda: runs.began, 5)

    watched(config, runs, during)


@pytest.mark.parametrize("completed", [False, True])
def test_runs_that_are_no_use_are_not_begun_over_and_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, completed: bool
) -> None:
    config = drop_config(tmp_path)
    monkeypatch.setattr(arrivals, "_PAUSE_SECONDS", 0.5)
    shutil.copyfile(KIWIS[0], tmp_path / "in/kiwi.jpg")
    runs = Runs(lambda: completed)

    async def during() -> None:
        await until(lambda: len(runs.began) == 4)

    watched(config, runs, during)
    waits = [b - a for a, b in itertools.pairwise(runs.began)]
    least = [0, 0.5, 1] if completed else [0.5, 1, 2]  # the first may have been of use
    assert all(wait >= some for wait, some in zip(waits, least, strict=True)), waits


def test_other_files_of_the_same_number_are_no_sign_of_a_useless_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = drop_config(tmp_path)
    monkeypatch.setattr(arrivals, "_PAUSE_SECONDS", 60)
    waiting = iter(KIWIS[1:5])

    def takes_one_while_another_arrives() -> bool:
        taken_away(config)
        following = next(waiting, None)
        if following is not None:
            shutil.copyfile(following, tmp_path / "in" / following.name)
        return True

    shutil.copyfile(KIWIS[0], tmp_path / "in/kiwi.jpg")
    runs = Runs(takes_one_while_another_arrives)

    async def during() -> None:
        await until(partial(runs.number, 5))

    watched(config, runs, during)


def test_a_source_that_is_made_anew_is_heard_of_as_before(tmp_path: Path) -> None:
    config = drop_config(tmp_path, poll_seconds=3)
    runs = Runs(lambda: taken_away(config))

    async def during() -> None:
        await asyncio.sleep(0.5)
        (tmp_path / "in").rmdir()
        await asyncio.sleep(3)
        (tmp_path / "in").mkdir()
        await asyncio.sleep(6)  # it was looked at since: only the kernel can tell of more
        shutil.copyfile(KIWIS[0], tmp_path / "in/kiwi.jpg")
        await until(lambda: runs.began)

    watched(config, runs, during)


def test_what_arrives_where_a_link_leads_is_heard_of(tmp_path: Path) -> None:
    config = drop_config(tmp_path)
    for name in ("before", "after", "behind"):
        (tmp_path / name).mkdir()
    (tmp_path / "in/folder").mkdir()
    (tmp_path / "in/folder/link").symlink_to(tmp_path / "before")
    (tmp_path / "after/link").symlink_to(tmp_path / "behind")
    (tmp_path / "after/up").symlink_to(tmp_path / "in")
    runs = Runs(lambda: emptied(tmp_path))

    async def during() -> None:
        await asyncio.sleep(3)
        shutil.copyfile(KIWIS[0], tmp_path / "before/kiwi.jpg")
        await until(partial(runs.number, 1))
        (tmp_path / "in/later").symlink_to(tmp_path / "after")
        await asyncio.sleep(5)
        shutil.copyfile(KIWIS[0], tmp_path / "behind/kiwi.jpg")
        await until(partial(runs.number, 2))

    watched(config, runs, during)


def emptied(folder: Path) -> bool:
    for path in folder.rglob("kiwi.jpg"):
        path.unlink()
    return True


def test_a_source_that_goes_for_a_while_ends_nothing(tmp_path: Path) -> None:
    config = drop_config(tmp_path, poll_seconds=1)
    runs = Runs(lambda: taken_away(config))

    async def during() -> None:
        await asyncio.sleep(0.5)
        (tmp_path / "in").rmdir()
        await asyncio.sleep(2)
        (tmp_path / "in").mkdir()
        shutil.copyfile(KIWIS[0], tmp_path / "in/kiwi.jpg")
        await until(lambda: runs.began)

    watched(config, runs, during)


def test_sources_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "photos").mkdir()
    sources = (str(tmp_path / "photos"), "s3://bucket/x", str(tmp_path / "shards/{0..9}-*.tar"))
    heard, remote = hearing.split_sources(sources)
    assert heard == [tmp_path / "photos", tmp_path / "shards"]
    assert remote == ["s3://bucket/x"]


def test_the_file_system_of_a_folder_is_that_of_the_mount_it_lies_in() -> None:
    assert hearing._file_system(Path("/proc/self")) == "proc"
    assert hearing._file_system(Path("/nothing/here")) != "proc"
