"""Deployments of the flows: what Prefect runs when, with which config, and never two at a time."""

import asyncio
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.schedules import Cron, Interval, Schedule
from prefect.types.entrypoint import EntrypointType

from flows.label_images import label_images
from pipeline.config import Config, anchored
from pipeline.errors import InputError

# A tick during a run is cancelled, not queued.
_ONE_AT_A_TIME = ConcurrencyLimitConfig(
    limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
)
_BANNED = "/%&<>"  # in Prefect's names


@dataclass(frozen=True)
class When:
    """When runs begin; with none of these they are begun by hand."""

    every: float | None = None  # seconds
    cron: str | None = None  # in this machine's time zone
    watch: bool = False  # when files arrive

    def schedule(self) -> Schedule | None:
        """Return Prefect's schedule, None where it is not by the clock.

        Raises:
            InputError: the cron expression is none.
        """
        if self.every is not None:
            # From now on; the first run is begun by who asks for a schedule.
            return Interval(timedelta(seconds=self.every), anchor_date=datetime.now(UTC))
        if self.cron is None:
            return None
        from tzlocal import get_localzone_name

        try:
            return Cron(self.cron, timezone=get_localzone_name() or "UTC")
        except ValueError as error:
            raise InputError(
                f'--cron {self.cron!r}: is no cron expression, such as "0 * * * *" ({error})'
            ) from error

    def require(self) -> None:
        """Raise InputError where the cron expression is none, or its time never comes."""
        schedule = self.schedule()
        if schedule is None or self.cron is None:
            return
        from prefect.server.schemas.schedules import CronSchedule

        dates = CronSchedule(cron=self.cron, timezone=schedule.timezone).get_dates(1)
        try:
            asyncio.run(dates)
        except ValueError as error:  # the 31st of February
            raise InputError(f"--cron {self.cron!r}: there is no such time ({error})") from error


def deployment_name(config: Config) -> str:
    """Return a store's name among deployments: its folder's, and what tells namesakes apart."""
    location = anchored(config, Path.cwd()).store
    mark = hashlib.sha256(location.encode(errors="surrogateescape")).hexdigest()[:6]
    last = location.rstrip("/").rpartition("/")[2]
    return f"{''.join(c if c.isalnum() or c in '-_.' else '-' for c in last)}-{mark}"


def served(config: Config, when: When) -> dict[str, Any]:
    """Return what the deployment that `serve` runs itself is made of."""
    name = f"serve-{deployment_name(config)}"
    return {"name": name, "schedule": when.schedule(), **_common(config)}


def register(config: Config, when: When, *, name: str, pool: str) -> list[str]:
    """Register every flow for the workers of a work pool; return their full names.

    Labelling has the schedule; the others are begun by hand.

    Args:
        config: of every run.
        when: by the clock, or by hand.
        name: of the deployments.
        pool: of type process, made where there is none of this name.

    Raises:
        InputError: the cron expression is none, or its time never comes; a name is refused.
    """
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner.storage import LocalStorage

    # These load torch, which `serve` has no time for: it runs none of them.
    from flows.caption_images import caption_images
    from flows.relabel_images import relabel_images
    from flows.train_model import train_model

    when.require()
    _require_names(name, pool)
    _require_pool(pool)
    made = []
    for flow in (label_images, relabel_images, train_model, caption_images):
        # By module, not by file: workers have this package installed, wherever that is.
        deployment = RunnerDeployment.from_flow(
            flow,
            name,
            schedule=when.schedule() if flow is label_images else None,
            work_pool_name=pool,
            **_common(config),
        )
        # Without a folder to go to, a worker would copy its own working folder for every run.
        deployment.storage = LocalStorage("/")
        deployment.apply()
        made.append(deployment.full_name)
    return made


def _common(config: Config) -> dict[str, Any]:
    whole = anchored(config, Path.cwd())
    given = whole.model_dump(mode="json", exclude_defaults=True)
    return {
        "parameters": {"config": {**given, "store": whole.store, "sources": list(whole.sources)}},
        "concurrency_limit": _ONE_AT_A_TIME,
        "entrypoint_type": EntrypointType.MODULE_PATH,
        "paused": False,
    }


def _require_names(name: str, pool: str) -> None:
    for option, given in (("--name", name), ("--pool", pool)):
        if found := sorted(set(given) & set(_BANNED)):
            raise InputError(f"{option} {given!r}: Prefect's names have no {' '.join(found)}")
    if pool.lower().startswith("prefect"):
        raise InputError(f"--pool {pool!r}: Prefect keeps names that begin with prefect for itself")


def _require_pool(pool: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(
                WorkPoolCreate(name=pool, type="process", base_job_template=template)
            )
