"""Where the time goes: sums of seconds worked out by hand, and those that a run tells."""

import json
import threading
import time
from pathlib import Path

import pytest

from pipeline.clip.embed import EmbedSummary
from pipeline.clock import Clock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be moved on by hand."""
    hands = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: hands[0])
    return hands


def test_a_clock_sums_up_by_name_in_the_order_in_which_names_came(now: list[float]) -> None:
    clock = Clock()
    for name, seconds in (("reading", 2), ("decoding", 5), ("reading", 0.5), ("writing", 0)):
        with clock(name):
            now[0] += seconds
        now[0] += 1000  # between blocks, and nobody's
    assert list(clock.seconds().items()) == [("reading", 2.5), ("decoding", 5), ("writing", 0)]


def test_blocks_within_blocks_are_counted_each(now: list[float]) -> None:
    clock = Clock()
    with clock("outer"):
        now[0] += 1
        with clock("inner"):
            now[0] += 2
    assert clock.seconds() == {"inner": 2, "outer": 3}


def test_a_block_that_fails_took_time_too(now: list[float]) -> None:
    clock = Clock()
    with pytest.raises(OSError, match="no disk"), clock("writing"):
        now[0] += 3
        raise OSError("no disk")
    assert clock.seconds() == {"writing": 3}


def test_seconds_are_told_to_the_millisecond_and_summed_up_whole() -> None:
    clock = Clock()
    for _ in range(4):
        clock.add("reading", 0.0004)
    assert clock.seconds() == {"reading": 0.002}  # not four times nothing
    clock.seconds()["reading"] = 9
    assert clock.seconds() == {"reading": 0.002}


def test_many_threads_lose_no_second() -> None:
    clock = Clock()

    def work() -> None:
        for _ in range(2000):
            clock.add("reading", 0.25)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.seconds() == {"reading": 4000}


def test_two_attempts_at_a_run_are_one_summary() -> None:
    first = EmbedSummary(9, 4, 2, 1, 1, 1, 64, {"reading": 1.0, "waiting": 2.0})
    later = EmbedSummary(5, 3, 1, 1, 0, 0, 32, {"waiting": 0.5, "writing": 4.0})
    assert first + later == EmbedSummary(
        14, 7, 3, 2, 1, 1, 32, {"reading": 1.0, "waiting": 2.5, "writing": 4.0}
    )
    assert first + EmbedSummary() == first  # its batch size, too
    assert sum([first], EmbedSummary()) == first
    assert first.seconds == {"reading": 1.0, "waiting": 2.0}


def test_a_run_tells_where_the_time_of_embedding_went(demo_store: Path) -> None:
    [summary] = demo_store.glob("runs/*/summary.json")
    told = json.loads(summary.read_text())
    seconds, wall = told["embed"]["seconds"], told["seconds"]["embed"]
    assert set(seconds) == {"reading", "decoding", "waiting", "inference", "writing"}
    assert all(spent >= 0 for spent in seconds.values())
    assert min(seconds[part] for part in ("reading", "decoding", "inference", "writing")) > 0
    assert seconds["waiting"] + seconds["inference"] <= wall + 0.002  # each is rounded
    assert seconds["writing"] <= wall
    assert told["embed"]["batch_size"] >= 16
