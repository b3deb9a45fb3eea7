"""What a dry run says of time, from summaries made by hand, and of files that wait."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextvars import Context
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.estimate import ALONE, ENOUGH, Estimate, Seconds, estimate
from flows.plan import plan
from pipeline.config import Config, make_config
from pipeline.cores import cores
from pipeline.opening import create_store
from pipeline.summaries import summaries
from tests.conftest import DATA, TINY, demo_config, run_plain
from tests.test_tars import write_tar

ASKED = make_config({"encoder": {"model": "ViT-B-32/x", "device": "auto", "precision": "auto"}})


def summary(images: int = 1000, wall: float = 100.0, **changes: Any) -> dict[str, Any]:
    """Return what a run on this machine's CPU left, asked as ASKED asks."""
    ran_with = {
        "model": "ViT-B-32/x",
        "asked_device": "auto",
        "device": "cpu",
        "devices": ["cpu"],
        "asked_precision": "auto",
        "precision": "bf16",
        "compile": False,
        "decode": "fast",
        "engine": "local",
        "cores": cores(),
        "load_seconds": 4.0,
        "start_seconds": 10.0,
    }
    ran_with |= changes.pop("ran_with", {})
    return {
        "scan": {"bytes": images * 1000},
        "embed": {
            "files": images,
            "embedded": images,
            "seconds": {"inference": wall * 0.75, "waiting": wall * 0.25, "decoding": 999.0},
        },
        "index": {"vectors": images},
        "seconds": {"scan": 2.0, "embed": wall + 0.5, "select": 8.0},
        "ran_with": ran_with,
        **changes,
    }


def told(
    *past: Any, config: Config = ASKED, files: int = 1000, size: int = 0, stale: Any = ()
) -> Estimate | None:
    named = ((f"r{-number}", one) for number, one in enumerate(past))
    return estimate(config, named, files=files, size=size or files * 1000, stale=list(stale))


def embedding(*past: Any, **more: Any) -> tuple[float, float] | None:
    found = told(*past, **more)
    return None if found is None else (found.embed.low, found.embed.high)


def test_the_range_is_from_the_slowest_to_the_fastest_of_the_runs_that_count() -> None:
    slow, fast = summary(1000, 100.0), summary(2000, 100.0)  # 10 and 20 images a second
    slow["index"]["vectors"] = 3000  # to which 1,000 come: the store grows by a third
    found = told(slow, fast)
    assert found is not None
    assert (found.embed, found.images_per_second) == (Seconds(50, 100), (10.0, 20.0))
    assert found.start == Seconds(10, 10)
    assert found.stages == {"scan": Seconds(2, 2.666), "select": Seconds(8, 10.666)}
    assert found.in_all == Seconds(70, 123.332)
    assert found.runs == ["r0", "r-1"]
    assert embedding(slow, fast, files=200) == (10, 20)


def test_one_run_is_no_spread() -> None:
    assert embedding(summary(1000, 100.0)) == pytest.approx((100 / ALONE, 100 * ALONE), abs=1e-3)


def test_only_the_five_newest_count() -> None:
    five = [summary(1000, 100.0)] * 5
    assert embedding(*five, summary(1000, 1.0)) == (100, 100)
    assert embedding(*five[1:], summary(1000, 1.0)) == (1, 100)


@pytest.mark.parametrize(
    ("encoder", "ran_with", "counts"),
    [
        ({}, {}, True),
        ({}, {"model": "ViT-L-14/x"}, False),
        ({}, {"decode": "exact"}, False),
        ({}, {"compile": True}, False),
        ({}, {"engine": "ray"}, False),
        ({}, {"asked_device": "cpu"}, False),  # what auto finds here may be something else
        ({}, {"asked_precision": "bf16"}, False),
        ({"device": "cpu"}, {}, True),  # auto came to this
        ({"device": "cuda:1"}, {}, False),
        ({"device": "cuda:1"}, {"device": "cuda"}, True),
        ({"precision": "bf16"}, {}, True),
        ({"precision": "fp32"}, {}, False),
        ({"precision": "fp32"}, {"asked_precision": "fp32", "precision": "fp32"}, True),
    ],
)
def test_a_run_counts_that_embedded_as_this_one_would(
    encoder: dict[str, str], ran_with: dict[str, object], counts: bool
) -> None:
    asked = make_config({"encoder": {**ASKED.encoder.model_dump(), **encoder}})
    assert (told(summary(ran_with=ran_with), config=asked) is not None) is counts


def test_without_a_run_nothing_is_known() -> None:
    assert told() is None
    assert told(summary(ran_with={"model": "other"})) is None
    without = {k: v for k, v in summary().items() if k != "ran_with"}  # of an older version
    assert told(without) is None


def test_runs_that_embedded_little_tell_of_no_rate() -> None:
    few, copies = summary(ENOUGH - 1, 2.0), summary(1000, 1.0)
    copies["embed"]["files"] = 2001  # mostly known: hashed, not embedded
    assert embedding(few, files=1000) is None
    assert embedding(few, copies, summary(1000, 100.0)) == pytest.approx(
        (100 / ALONE, 100 * ALONE + 1.0), abs=1e-3
    )
    # The smallest run is what it takes to begin and end: added to the most.


def test_small_drops_tell_of_small_drops() -> None:
    assert embedding(summary(10, 3.0), summary(20, 4.0), files=10) == (2.0, 4.0)
    assert embedding(summary(10, 3.0), files=11) is None


@pytest.mark.parametrize(
    "broken",
    [
        {"embed": "x"},
        {"embed": {"files": "many"}},
        {"seconds": {"scan": None}},
        {"ran_with": {"model": "ViT-B-32/x"}},
        {"index": None},
        {},
    ],
)
def test_a_summary_of_another_make_is_passed_over(broken: dict[str, Any]) -> None:
    assert embedding(broken, summary(1000, 100.0), summary(2000, 100.0)) == (50, 100)


def test_of_many_workers_the_time_of_the_step_counts() -> None:
    asked = ASKED.model_copy(update={"run": ASKED.run.model_copy(update={"engine": "ray"})})
    run = summary(1000, 300.0, ran_with={"engine": "ray"})  # the sum over three
    run["seconds"]["embed"] = 100.0
    assert embedding(run, run, config=asked) == (100, 100)


def test_stages_grow_with_what_is_new_or_with_all_there_is_or_not_at_all() -> None:
    first, later = summary(1000, 100.0), summary(100, 10.0)
    first["seconds"], later["seconds"] = {"select": 8.0, "x": 1}, {"select": 1.0, "compact": 3.0}
    later["index"]["vectors"] = 1100
    found = told(later, first, files=100)
    assert found is not None
    # 100 more to 1,200: like `later`, when it was 1,100.
    assert found.stages["select"] == Seconds(1.0, round(1201 / 1101, 3))
    assert found.stages["compact"].low == 0  # merging is not due each time


def test_what_is_only_stale_takes_no_embedding_and_perhaps_no_model() -> None:
    found = told(summary(), files=0, stale=["select"])
    assert found is not None
    assert (found.embed, found.images_per_second) == (Seconds(), None)
    assert found.start == Seconds(6, 10)
    assert set(found.stages) == {"scan", "select"}


def test_other_machines_and_other_files_are_told_of() -> None:
    assert told(summary()).warnings == []  # type: ignore[union-attr]
    big = told(summary(ran_with={"cores": cores() + 6}), size=1000 * 3000)
    assert big is not None
    assert big.warnings == [
        f"measured on {cores() + 6} cores, here are {cores()}",
        "these files are 3.0 times as large on average than those that were measured",
    ]
    small = told(summary(), size=1000 * 250)
    assert small is not None
    assert "4.0 times smaller" in small.warnings[0]


def test_summaries_come_newest_first_without_the_damaged(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "store"))
    assert list(summaries(store)) == []
    for run in ("20260101T0", "20260301T0", "20260201T0"):
        store.put_json(f"runs/{run}/summary.json", {"run": run})
    store.put("runs/20260401T0/summary.json", b'{"run": 1}')  # without its checksum
    store.put("runs/20260501T0/contact-sheet.png", b"x")
    assert [name for name, _ in summaries(store)] == ["20260301T0", "20260201T0", "20260101T0"]


def test_a_run_keeps_what_it_ran_with_and_the_next_dry_run_tells_by_it(
    tmp_path: Path, tiny_tells: Callable[..., str]
) -> None:
    folders = [str(DATA / "images" / name) for name in ("food", "animals")]
    untrained = {"train": {"every_run": False}}
    config = demo_config(tmp_path / "store", sources=folders[:1], **untrained)
    did = Context().run(run_plain, config)  # what other commands left in this process is not heard
    assert did.ran_with is not None
    assert (did.ran_with.model, did.ran_with.devices) == (TINY, ["cpu"])
    assert (did.ran_with.precision, did.ran_with.start_seconds) == ("fp32", None)
    assert did.ran_with.load_seconds > 0
    assert did.scan.bytes == sum(p.stat().st_size for p in Path(folders[0]).rglob("*.*"))
    said = tiny_tells(config, *folders)
    assert f"by one run, {did.run_id}: {TINY} on cpu" in said
    assert said.endswith("no torch, no Prefect\n")


@pytest.fixture
def tiny_tells() -> Callable[..., str]:
    def tell(config: Config, *sources: str) -> str:
        """Return what a dry run of a process of its own says, and what it has loaded."""
        code = (
            "import sys; from flows.driver import show_plan; from pipeline.config import Config;"
            "config = Config.model_validate_json(sys.stdin.read());"
            "show_plan(config, retry_failed=False, as_json=False);"
            "loaded = {'torch', 'prefect', 'open_clip'} & set(sys.modules);"
            "print(loaded or 'no torch, no Prefect')"
        )
        asked = config.model_copy(update={"sources": sources})
        return subprocess.run(
            [sys.executable, "-c", code],
            input=asked.model_dump_json(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    return tell


def test_files_that_wait_are_named_with_the_time_when_they_are_taken(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    folder = tmp_path / "in"
    folder.mkdir()
    ages = {"young.jpg": -10, "settled.jpg": -900, "tomorrow.jpg": 3600, "far.jpg": 10 * 86_400}
    for name in ages:
        (folder / name).write_bytes(name.encode())
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": b"1"})
    ages["0.tar"] = -20
    for name, seconds in ages.items():
        file = tar if name == "0.tar" else folder / name
        at = (now + timedelta(seconds=seconds)).timestamp()
        os.utime(file, (at, at))
    sources = [str(folder), str(tar)]
    found = plan(demo_config(tmp_path / "s", sources=sources, scan={"settle_seconds": 600}))
    assert (found.to_read, found.waiting) == (2, 3)  # one dated days ahead is taken at once
    assert found.bytes == len("settled.jpg") + len("far.jpg")
    assert [(Path(f.path).name, f.taken_from - now, f.reason) for f in found.waiting_files] == [
        ("0.tar", timedelta(seconds=580), "younger than 600 s"),
        ("young.jpg", timedelta(seconds=590), "younger than 600 s"),
        ("tomorrow.jpg", timedelta(seconds=4200), "dated in the future"),
    ]
