"""Embed on a Ray cluster: the driver deals out shards, workers write parts, summaries come back.

One Prefect task drives a pool of Ray actors. A task of Prefect per shard (prefect-ray) took four to
five times as long for 100 small shards and would add 30 KB a shard to Prefect's database; and Ray
starts a new process for each call of a *task* that has a GPU, which would load the model for each
shard. An actor stays, so it loads the model once, and `--plain` needs no Prefect for it.

The driver holds the store's lock; what a worker may write says `pipeline.clip.sharing`.
"""

import logging
import time
from bisect import insort
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.progress import listener
from flows.ray_actor import actor_class
from flows.ray_cluster import cluster, machines_of, share_of
from pipeline.clip.embed import EmbedSummary
from pipeline.clip.sharing import Permit, committed, counted, drop_copies, permit
from pipeline.config import Config, anchored
from pipeline.errors import InputError, PseudolabelError
from pipeline.images.scan import shard_sizes
from pipeline.opening import open_store

logger = logging.getLogger(__name__)

_HEAR_SECONDS = 1.0  # at most, between two looks at the lock
_LOOK_SECONDS = 5.0  # between two looks at what machines there are
_PATIENCE_SECONDS = 600.0  # that a cluster may take to replace its last machine
_DEATHS = 3  # of workers over one shard, or in a row before they began: then it is no accident


def embed_on_ray(
    config: Config, run_id: str, shards: Sequence[int], check: Callable[[], None]
) -> EmbedSummary:
    """Embed some shards of a run's plan on the workers of a cluster.

    A worker that dies is replaced, and what it had not committed is done again by others.

    Args:
        config: what is wanted; its store is this encoder's already, and locked by this process.
        run_id: the run.
        shards: their numbers.
        check: raises when the store is not ours any more; the workers then write no more either.

    Returns:
        What a run on one machine returns; seconds are those of all workers together.

    Raises:
        InputError: no cluster answers or has room; a worker lacks this package, the store, a source
            or the model.
        PseudolabelError: workers die again and again.
    """
    store = open_store(config.store)
    told: list[EmbedSummary] = []
    if shards:
        with cluster(config.run.ray_address) as ray:
            told = _Crew(ray, config, run_id, shards, check).embed()
    check()
    drop_copies(store, run_id)
    took = sum(told, EmbedSummary())
    return replace(counted(store, run_id, shards), seconds=took.seconds, batch_size=took.batch_size)


@dataclass(eq=False)
class _Hired:
    """A worker, as the driver knows it."""

    actor: Any
    permit: Permit
    host: str = "a host of the cluster"
    given: list[int] = field(default_factory=list)  # shards
    told: int = 0  # files that it said were done


class _Crew:
    """The workers of one run."""

    def __init__(
        self,
        ray: Any,
        config: Config,
        run_id: str,
        shards: Sequence[int],
        check: Callable[[], None],
    ) -> None:
        self._ray, self._run_id, self._check = ray, run_id, check
        self._store, self._asked = open_store(config.store), config.run
        elsewhere = anchored(config, Path.cwd())  # another folder, of another host
        run = elsewhere.run.model_copy(update={"engine": "local"})
        self._config = elsewhere.model_copy(update={"run": run}).model_dump(mode="json")
        self._sizes = shard_sizes(self._store, run_id)
        self._left = sorted(shards)
        self._hired: set[_Hired] = set()
        self._calls: dict[Any, tuple[_Hired, str]] = {}  # under way
        self._summaries: list[EmbedSummary] = []
        self._share = share_of(self._asked, machines_of(ray))
        self._room, self._looked, self._had_room = 0, float("-inf"), time.monotonic()
        self._deaths: Counter[int | None] = Counter()  # by shard; None: before they had one
        self._number = 0
        self._actor = actor_class(ray, self._share)

    def embed(self) -> list[EmbedSummary]:
        """Deal out all shards; return the workers' summaries."""
        ray_error = self._ray.exceptions.RayError
        try:
            while self._left or self._hired:
                self._check()
                self._hire()
                if not self._calls:
                    time.sleep(_HEAR_SECONDS)
                    continue
                for call in self._ray.wait(list(self._calls), timeout=_HEAR_SECONDS)[0]:
                    self._hear(*self._calls.pop(call), call)
            return self._summaries
        finally:
            for hired in list(self._hired):
                # A cluster or a bucket that is gone must not keep the others from being dismissed.
                with suppress(OSError, ray_error):
                    self._dismiss(hired)

    def _hire(self) -> None:
        """Have as many workers as there is room and work for."""
        self._look()
        busy = sum(bool(hired.given) for hired in self._hired)
        for _ in range(len(self._hired), min(self._room, busy + len(self._left))):
            allowed = permit(self._store, self._run_id, self._number)
            self._number += 1
            asked = {
                "config": self._config,
                "run_id": self._run_id,
                "permit": asdict(allowed),
                "cores": max(1, int(self._share.cpus)),
            }
            hired = _Hired(self._actor.remote(version("pseudolabel"), asked), allowed)
            self._hired.add(hired)
            self._call(hired, "begin")

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked > _LOOK_SECONDS:
            room = self._share.fits(machines_of(self._ray))
            self._room, self._looked = min(room, self._asked.ray_workers or room), now
        if self._room or self._hired:
            self._had_room = now
        elif now - self._had_room > _PATIENCE_SECONDS:
            raise PseudolabelError(
                "the Ray cluster has lost the machines that could embed. What was committed stays: "
                "run again when they are back"
            )

    def _hear(self, hired: _Hired, what: str, call: Any) -> None:
        if hired not in self._hired:
            return  # dismissed meanwhile
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(call)
        except errors.RayTaskError as error:  # what it raised
            raise (error.cause or error) from error
        except errors.RayError as death:
            self._replace(hired, str(death))
            return
        if what == "begin":
            hired.host, trouble = answer
            if trouble:
                raise InputError(f"Ray worker on {hired.host}: {trouble}")
            self._deaths[None] = 0
            self._call(hired, "work")
            self._call(hired, "news")
        elif what == "news":
            done, failed, wants = answer
            hired.told += done
            listener.get().advance(done, failed)
            if wants:
                self._give(hired)
            self._call(hired, "news")
        else:
            self._summaries.append(answer)
            self._dismiss(hired)

    def _give(self, hired: _Hired) -> None:
        shard = self._left.pop(0) if self._left else None
        if shard is not None:
            hired.given.append(shard)
        hired.actor.give.remote(shard)

    def _call(self, hired: _Hired, method: str) -> None:
        self._calls[getattr(hired.actor, method).remote()] = hired, method

    def _dismiss(self, hired: _Hired) -> None:
        """End a worker; first of all in the store, which it may still reach where we do not."""
        self._hired.discard(hired)
        self._store.delete(hired.permit.name)
        self._ray.kill(hired.actor)

    def _replace(self, hired: _Hired, why: str) -> None:
        """Give back to the others what a worker that died has not committed."""
        self._dismiss(hired)
        done = committed(self._store, self._run_id)
        again = [shard for shard in hired.given if shard not in done]
        told = (why.strip() or "no reason given").splitlines()[0]
        then = f"shards that are done again: {len(again)}" if again else "nothing is lost"
        logger.warning("a Ray worker on %s died (%s); %s", hired.host, told, then)
        for shard in again:
            insort(self._left, shard)
        lost = hired.told - sum(self._sizes[shard] for shard in set(hired.given) & done)
        listener.get().advance(-max(0, lost), 0)
        self._deaths.update(again if hired.given else [None])
        worst, deaths = self._deaths.most_common(1)[0] if self._deaths else (None, 0)
        if deaths >= _DEATHS:
            over = "before it began" if worst is None else f"over shard {worst}"
            raise PseudolabelError(
                f"{deaths} Ray workers died {over}, the last on {hired.host} ({told}). What was "
                "committed stays; Ray's logs on that host (/tmp/ray/session_latest/logs) say more"
            )
