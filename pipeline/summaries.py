"""What runs left of themselves in `runs/<run>/summary.json`: the newest first."""

from collections.abc import Iterator

from pipeline.errors import DamagedFileError
from pipeline.runs import kept_runs
from pipeline.store import Store


def summaries(store: Store) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the name and summary of each run that left one; a damaged one is passed over."""
    for run_id in reversed(kept_runs(store)):
        try:
            summary = store.get_json(f"runs/{run_id}/summary.json")
        except DamagedFileError:
            continue
        if summary:
            yield run_id, summary
