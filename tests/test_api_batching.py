"""Batches of the service: who is asked together, who is refused, and that nobody harms others."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import pytest

from flows.api.batching import Batcher, BusyError

Answers = Sequence[int | Exception]


def used(
    answer: Callable[[Sequence[int]], Answers],
    use: Callable[[Batcher[int, int]], Awaitable[None]],
    *,
    size: int = 4,
    seconds: float = 0.05,
    waiting: int = 100,
) -> None:
    """Run a batcher as long as somebody uses it."""

    async def whole() -> None:
        batcher: Batcher[int, int] = Batcher(answer, size=size, seconds=seconds, waiting=waiting)
        running = asyncio.create_task(batcher.run())
        await use(batcher)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    asyncio.run(asyncio.wait_for(whole(), 20))


def test_who_comes_together_is_asked_together_in_order() -> None:
    batches: list[list[int]] = []

    def square(asked: Sequence[int]) -> Answers:
        batches.append(list(asked))
        return [n * n for n in asked]

    async def use(batcher: Batcher[int, int]) -> None:
        assert await asyncio.gather(*map(batcher.ask, range(10))) == [n * n for n in range(10)]

    used(square, use)
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_question_that_fails_fails_alone() -> None:
    def answer(asked: Sequence[int]) -> Answers:
        if 2 in asked:
            raise ZeroDivisionError("two")
        return [ValueError("one") if n == 1 else n for n in asked]

    async def use(batcher: Batcher[int, int]) -> None:
        got = await asyncio.gather(*map(batcher.ask, range(4)), return_exceptions=True)
        assert [got[0], got[3]] == [0, 3]
        assert isinstance(got[1], ValueError)
        assert isinstance(got[2], ZeroDivisionError)

    used(answer, use)


def test_a_full_queue_refuses_and_then_goes_on() -> None:
    held = threading.Event()

    def slow(asked: Sequence[int]) -> Answers:
        held.wait(10)
        return list(asked)

    async def use(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.ask(0))
        while batcher.waiting == 0 and not first.done():  # it stands in the queue
            await asyncio.sleep(0)
        while batcher.waiting:  # and now it is being answered
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(batcher.ask(n)) for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await batcher.ask(3)
        held.set()
        assert await asyncio.gather(first, *others) == [0, 1, 2]
        assert await batcher.ask(4) == 4

    used(slow, use, size=1, seconds=0, waiting=2)


def test_who_went_away_is_not_asked_for() -> None:
    batches: list[list[int]] = []

    def answer(asked: Sequence[int]) -> Answers:
        batches.append(list(asked))
        return list(asked)

    async def use(batcher: Batcher[int, int]) -> None:
        gone = asyncio.create_task(batcher.ask(1))
        stays = asyncio.create_task(batcher.ask(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays == 2

    used(answer, use)
    assert batches == [[2]]


def test_one_thread_asks_and_it_is_not_the_loops() -> None:
    threads = set()

    def answer(asked: Sequence[int]) -> Answers:
        threads.add(threading.get_ident())
        return list(asked)

    async def use(batcher: Batcher[int, int]) -> None:
        for n in range(5):
            assert await batcher.ask(n) == n

    used(answer, use, seconds=0)
    assert len(threads) == 1
    assert threading.get_ident() not in threads
