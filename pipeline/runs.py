"""Names of runs: by the time, so that what later runs write sorts behind all before it."""

from datetime import UTC, datetime, timedelta

import pyarrow.fs

from pipeline.errors import InputError
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


def run_time(run_id: str) -> datetime:
    """Return when a run began, by its name.

    Raises:
        ValueError: it is no name of a run.
    """
    return datetime.strptime(run_id, _FORM).replace(tzinfo=UTC)


def kept_runs(store: Store) -> list[str]:
    """Return the names of the folders of runs, oldest first."""
    wanted = pyarrow.fs.FileSelector(store.folder.full("runs"), allow_not_found=True)
    entries = store.folder.filesystem.get_file_info(wanted)
    return sorted(entry.base_name for entry in entries if not entry.is_file)


def known_runs(store: Store) -> list[str]:
    """Return the names of all runs that left something, oldest first."""
    seen = set(kept_runs(store)) | set(store.read("files", ["run_id"])["run_id"].unique())
    return sorted(run_id for run_id in seen if _is_run(run_id))


def find_run(store: Store, given: str | None) -> str:
    """Return the run whose name begins so, or the last one.

    Raises:
        InputError: there is none, or more than one; the last ones are named.
    """
    runs = known_runs(store)
    if not runs:
        raise InputError(f"{store.location}: there was no run yet; `pseudolabel run` makes one")
    if given is None:
        return runs[-1]
    found = [run_id for run_id in runs if given and run_id.startswith(given)]
    if len(found) != 1:
        number = "no run" if not found else f"{len(found)} runs"
        last = ", ".join((found or runs)[-5:])
        raise InputError(f"run {given!r}: {number} of {store.location} begins so; the last: {last}")
    return found[0]


def _is_run(name: str) -> bool:
    try:
        run_time(name)
    except ValueError:
        return False
    return True
