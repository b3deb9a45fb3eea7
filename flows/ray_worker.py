"""A worker of a Ray cluster: shards are given to it one by one, it writes their parts to the store.

It does what a run on one machine does, `stages.embed_here`, which asks for a shard when the one
before is nearly through: the model never waits, and is loaded once. Its methods are called by
several threads at once. Nothing here knows of Ray.
"""

import socket
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Condition
from typing import Any, NamedTuple

from flows import stages
from flows.progress import listener
from flows.quiet import quiet_libraries
from pipeline.clip.embed import EmbedSummary
from pipeline.clip.sharing import Permit
from pipeline.config import Config, make_config
from pipeline.cores import take_share
from pipeline.errors import InputError, PseudolabelError
from pipeline.images.paths import is_url, local_path, split_member
from pipeline.images.scan import read_shard
from pipeline.images.shards import names_tars
from pipeline.opening import peek_store

_TOLD_EVERY = 1.0  # seconds


class News(NamedTuple):
    """What there is to tell since the last time."""

    done: int  # files, failed ones among them
    failed: int
    wants: bool  # to be given a shard


class Worker:
    """Embeds the shards that it is given; hears how far it is, as a `progress.Listener`."""

    def __init__(self, config: dict[str, Any], run_id: str, permit: dict[str, Any]) -> None:
        """See that the store of the run can be reached from here.

        Args:
            config: of the run, as JSON has it.
            run_id: the run whose plan is followed.
            permit: the fields of its `Permit`.

        Raises:
            InputError: the store or a source is not to be seen on this host.
        """
        self._config, self._run_id = make_config(config), run_id
        self._permit = Permit(**permit)
        self._given: SimpleQueue[int | None] = SimpleQueue()
        self._news = Condition()
        self._done = self._failed = 0
        self._wants = False
        self._store = peek_store(self._config.store)
        if not self._permit.good(self._store):
            raise InputError(
                f"store {self._store.location} is not the one that this run writes to, as seen on "
                f"{_here()}: it has to lie in a bucket, or under this path in a folder that all "
                "hosts share"
            )
        _require_sources(self._config)

    def work(self) -> EmbedSummary:
        """Embed what is given until None is; return what it took.

        Raises:
            PseudolabelError: as the stage does; with the name of this host.
        """
        listener.set(self)
        try:
            return stages.embed_here(self._config, self._run_id, self._shards(), self._check)
        except InputError as error:
            raise InputError(f"Ray worker on {_here()}: {error}") from error

    def give(self, shard: int | None) -> None:
        """Take the number of the next shard; None: there are no more."""
        self._given.put(shard)

    def news(self) -> News:
        """Wait until a shard is wanted, or a second; tell what is new."""
        with self._news:
            self._news.wait_for(lambda: self._wants, _TOLD_EVERY)
            told = News(self._done, self._failed, self._wants)
            self._done = self._failed = 0
            self._wants = False
        return told

    def stage(self, name: str, total: int = 0, unit: str = "images") -> None:
        """Hear that a stage begins; the driver knows."""

    def advance(self, done: int, failed: int) -> None:
        """Hear that files were done."""
        with self._news:
            self._done += done
            self._failed += failed

    def _shards(self) -> Iterator[int]:
        while True:
            with self._news:
                self._wants = True
                self._news.notify()
            shard = self._given.get()
            if shard is None:
                return
            self._require_files(shard)
            yield shard

    def _check(self) -> None:
        self._permit.check(self._store)

    def _require_files(self, shard: int) -> None:
        """A source that is mounted elsewhere is empty here: its files would wait for ever."""
        paths = read_shard(self._store, self._run_id, shard)["path"]
        tars = (split_member(path) for path in paths)
        files = [tar[1] if tar else path for path, tar in zip(paths, tars, strict=True)]
        near = [file for file in files if not is_url(file)]
        if near and not any(Path(local_path(file)).exists() for file in near):
            raise InputError(
                f"sources: none of {len(near)} files is to be seen, such as {near[0]}; they have "
                "to lie in a bucket, or under the same path on all hosts"
            )


def _require_sources(config: Config) -> None:
    for source in config.sources:
        near = not is_url(source) and not names_tars(source)
        if near and not Path(local_path(source)).is_dir():
            raise InputError(
                f"source {source}: no such folder on {_here()}; sources have to lie in a bucket, "
                "or under the same path on all hosts"
            )


def begin(cores: int, **asked: Any) -> "Worker | str":
    """Make this process one that works on so many cores; return its worker, or what is wrong."""
    quiet_libraries()
    take_share(cores)
    try:
        return Worker(**asked)
    except PseudolabelError as error:
        return str(error)


def _here() -> str:
    return socket.gethostname()
