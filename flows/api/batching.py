"""Batches: questions of many clients in, one call for all that are there at once.

The event loop is never blocked: the calls are made in one thread, which is therefore the only one
that runs the model.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")
# Answers questions, in order; where one has no answer, the reason why.
AnswerAll = Callable[[Sequence[Q]], Sequence[A | Exception]]

logger = logging.getLogger(__name__)


class BusyError(Exception):
    """Too many questions wait already: come again later."""


class Batcher(Generic[Q, A]):
    """Gathers the questions that come within a moment, and has them answered together."""

    def __init__(self, answer: AnswerAll[Q, A], *, size: int, seconds: float, waiting: int) -> None:
        """Answer nothing before `run`.

        Args:
            answer: called with 1 to `size` questions, in one thread only.
            size: questions of a batch at most.
            seconds: how long the first of a batch waits for others.
            waiting: questions that may wait for their batch; more are refused.
        """
        self._answer, self._size, self._seconds = answer, size, seconds
        self._queue: asyncio.Queue[tuple[Q, asyncio.Future[A]]] = asyncio.Queue(waiting)

    @property
    def waiting(self) -> int:
        """How many questions wait for their batch."""
        return self._queue.qsize()

    async def ask(self, question: Q) -> A:
        """Return the answer. A caller who is cancelled is forgotten.

        Raises:
            BusyError: too many wait.
            Exception: as `answer` gave or raised it for this question.
        """
        answered: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((question, answered))
        except asyncio.QueueFull as error:
            raise BusyError from error
        return await answered

    async def run(self) -> None:
        """Answer batch after batch until cancelled; what is under way then is finished."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="model") as thread:
            while True:
                batch = await self._gathered()
                wanted = [(q, answered) for q, answered in batch if not answered.done()]
                if not wanted:
                    continue
                asked = [question for question, _ in wanted]
                answers = await loop.run_in_executor(thread, self._answered, asked)
                for (_, answered), answer in zip(wanted, answers, strict=True):
                    if answered.done():  # its client went away meanwhile
                        continue
                    if isinstance(answer, Exception):
                        answered.set_exception(answer)
                    else:
                        answered.set_result(answer)

    async def _gathered(self) -> list[tuple[Q, "asyncio.Future[A]"]]:
        batch = [await self._queue.get()]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                while len(batch) < self._size:
                    batch.append(await self._queue.get())
        while len(batch) < self._size and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    def _answered(self, asked: Sequence[Q]) -> list[A | Exception]:
        """Answer a batch; where that fails as a whole, each alone: one takes no others along."""
        try:
            answers = list(self._answer(asked))
            if len(answers) != len(asked):  # then nobody knows whose they are
                raise ValueError(f"{len(answers)} answers to {len(asked)} questions")
            return answers
        except Exception as error:
            if len(asked) == 1:
                return [error]
            logger.warning("a batch of %d failed (%s); each is asked alone", len(asked), error)
            return [answer for question in asked for answer in self._answered([question])]
