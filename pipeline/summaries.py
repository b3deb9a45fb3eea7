"""What runs left of themselves in `runs/<run>/summary.json`: the newest first."""

from collections.abc import Iterator

import pyarrow.fs

from pipeline.errors import DamagedFileError
from pipeline.store import Store


def summaries(store: Store) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the name and summary of each run that left one; a damaged one is passed over."""
    wanted = pyarrow.fs.FileSelector(store.folder.full("runs"), allow_not_found=True)
    entries = store.folder.filesystem.get_file_info(wanted)
    folders = [entry.base_name for entry in entries if not entry.is_file]
    for run_id in sorted(folders, reverse=True):
        try:
            summary = store.get_json(f"runs/{run_id}/summary.json")
        except DamagedFileError:
            continue
        if summary:
            yield run_id, summary
