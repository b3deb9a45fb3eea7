"""Serve: runs of `label_images` on a schedule, until stopped."""

from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from pydantic import ValidationError

from flows.label_images import label_images
from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.validation import explain


def serve(config: Config, *, every: float | None, cron: str | None) -> None:
    """Start a run each time the schedule says so; a tick during a run is cancelled, not queued.

    Args:
        config: of every run.
        every: seconds between runs.
        cron: a cron expression; exactly one of the two is given.

    Raises:
        InputError: the cron expression is none.
    """
    one_at_a_time = ConcurrencyLimitConfig(
        limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
    )
    try:
        label_images.serve(
            name="scheduled",
            interval=every,
            cron=cron,
            parameters={"config": config.model_dump(mode="json")},
            global_limit=one_at_a_time,
            print_starting_message=False,
        )
    except ValidationError as error:
        raise InputError(explain(error, "serve")) from error
