"""Names of runs: by the time, so that what later runs write sorts behind all before it."""

from datetime import UTC, datetime, timedelta

from pipeline.parts import span
from pipeline.store import Store

_FORM = "%Y%m%dT%H%M%S%f"


def new_run_id(store: Store, now: datetime, *more: str) -> str:
    """Name a run so that its parts come last, even when the clock was set back.

    Args:
        store: the store that the run writes to.
        now: the present, with time zone.
        more: tables beside those of a run, whose parts it is to come after.
    """
    wanted = now.astimezone(UTC)
    for table in ("files", "embeddings", *more):
        for part in reversed(store.parts(table)):
            try:
                newest = datetime.strptime(span(part)[1].split("-")[0], _FORM).replace(tzinfo=UTC)
            except ValueError:  # a file of somebody else's
                continue
            wanted = max(wanted, newest + timedelta(milliseconds=1))
            break
    return wanted.strftime(_FORM)
