"""The service itself: a store's snapshot, a model, decoders, and the threads they are used from."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TypeVar

from flows import resources
from flows.api.answering import Answerer, Question, Reply
from flows.api.batching import Batcher
from flows.api.following import Follower, Snapshot, open_snapshot
from flows.api.limits import Admission
from pipeline.clip.encoder import Encoder
from pipeline.config import Config
from pipeline.cores import cores
from pipeline.images.decoding import Picture, Refusal
from pipeline.images.paths import name_of
from pipeline.images.recorded import Gone
from pipeline.images.thumbnails import Within, jpeg_of

R = TypeVar("R")


class Service:
    """What the routes ask."""

    def __init__(self, config: Config, encoder: Encoder, first: Snapshot) -> None:
        """Use `load_service`; nothing runs before `running`."""
        self.config, self.knobs, self.encoder = config, config.api, encoder
        self.follower = Follower(
            first,
            lambda before: open_snapshot(config, encoder.identity, before),
            seconds=self.knobs.follow_seconds or (1 if first.store.local else 30),
        )
        self.batcher: Batcher[Question, Reply] = Batcher(
            Answerer(encoder, self.follower),
            size=self.knobs.batch,
            seconds=self.knobs.batch_ms / 1000,
            waiting=self.knobs.max_waiting,
        )
        self.admission = Admission(self.knobs.max_waiting)
        self.uploads = asyncio.Semaphore(self.knobs.max_uploads)
        workers = config.run.decode_workers or cores()
        uploads = {"max_pixels": self.knobs.max_pixels, "decode_seconds": self.knobs.decode_seconds}
        scan = config.scan.model_copy(update=uploads)
        self._decoders = resources.decoders(config.model_copy(update={"scan": scan}), workers)
        self._shrinkers = resources.decoders_for(config, Within(self.knobs.thumbnail), workers)
        # Each waits for its decoders: they must not keep one another, or other work, waiting.
        self._decoding = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._shrinking = ThreadPoolExecutor(workers, thread_name_prefix="thumbnail")

    @property
    def now(self) -> Snapshot:
        """The snapshot in force."""
        return self.follower.now

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer and follow; leave no thread and no process behind."""
        async with AsyncExitStack() as stack:
            for pool in (self._decoding, self._shrinking):
                stack.callback(pool.shutdown, cancel_futures=True)
            for decoders in (self._decoders, self._shrinkers):
                stack.callback(decoders.close)
            for work in (self.batcher.run(), self.follower.run()):
                await stack.enter_async_context(_background(work))
            yield

    async def decode(self, read: Callable[[], bytes], name: str) -> Picture | Refusal:
        """Decode an upload as the model wants it.

        Args:
            read: returns its bytes; called when its turn has come, so that few are in memory.
            name: as its client calls it.
        """
        return await _in(self._decoding, lambda: self._decoders.decode(read(), name))

    async def thumbnail(self, image_id: str, longest: int) -> bytes | Gone | None:
        """Return a JPEG of an image of the store; None where the store knows no such image."""
        images = self.now.images

        def make() -> bytes | Gone | None:
            data = images.read(image_id)
            if not isinstance(data, bytes):
                return data
            picture = self._shrinkers.decode(data, name_of(images.seen(image_id)[0].path))
            if isinstance(picture, Refusal):
                return Gone(picture.reason)
            return jpeg_of(picture.pixels, longest)

        return await _in(self._shrinking, make)


def load_service(config: Config) -> Service:
    """Open the store and load its model.

    Raises:
        InputError: there is no store, it has no index yet, or the model is another one.
        StoreError: the store is damaged.
    """
    first = open_snapshot(config, None)  # what is wrong is told before a model is loaded in vain
    encoder = resources.encoder(config)
    first.store.require(encoder.identity)
    return Service(config, encoder, first)


async def _in(pool: ThreadPoolExecutor, work: Callable[[], R]) -> R:
    return await asyncio.get_running_loop().run_in_executor(pool, work)


@asynccontextmanager
async def _background(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
