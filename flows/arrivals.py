"""File arrival: a run is begun when a look says that there is work, and looks are cheap.

What makes us look: the kernel tells of changes in folders of this machine; buckets and network
mounts tell nothing, so they are looked at now and then; and a file that must settle first is looked
at when it is old enough.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from flows.plan import Plan, plan
from pipeline.config import Config
from pipeline.errors import PseudolabelError
from pipeline.images.paths import local_path, whole_path

logger = logging.getLogger(__name__)

Run = Callable[[], Awaitable[bool]]  # begins a run and waits for it; whether it was completed

QUIET_SECONDS = 1.0  # after a change, for more of them: files come in crowds
_AT_LEAST_SECONDS = 900.0  # between looks: the kernel may drop what it would tell
_PAUSE_SECONDS, _LONGEST_PAUSE = 10.0, 600.0  # after runs that were no use
_REMOTE = re.compile(
    r"^(nfs4?|cifs|smb3?|smbfs|9p|afs|ceph|lustre|glusterfs|beegfs|gpfs|virtiofs|vboxsf|davfs|fuse\..*)$"
)
_MAGIC = re.compile(r"[*?\[{]")


async def watch(config: Config, run: Run) -> None:
    """Run whenever files have arrived, have settled or went; until cancelled."""
    heard, remote = split_sources(config.sources)
    changed = asyncio.Event()
    hearing = asyncio.create_task(_hear(heard, Path(whole_path(config.store)), changed))
    useless, before = 0, None
    try:
        while True:
            began = time.monotonic()
            found = await asyncio.to_thread(_look, config)
            took = time.monotonic() - began
            if found is not None and found.any:
                completed = await run()
                # Where a run leaves all as it was, the next one would, too.
                useless = 0 if completed and _work(found) != before else useless + 1
                before = _work(found)
                if useless:
                    await _pause(min(_PAUSE_SECONDS * 2 ** (useless - 1), _LONGEST_PAUSE))
                continue
            useless, before = 0, None
            polled = remote or hearing.done() or found is None
            longest = config.scan.poll_seconds if polled else _AT_LEAST_SECONDS
            if await _woken(changed, _due(found, longest)):
                await asyncio.sleep(max(QUIET_SECONDS, 2 * took))
            changed.clear()
    finally:
        hearing.cancel()


def split_sources(sources: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    """Tell the folders that changes can be heard of from the sources that tell nothing."""
    heard, remote = [], []
    for source in sources:
        folder = None if "://" in source else _folder(source)
        if folder is None or _REMOTE.match(_file_system(folder)):
            remote.append(source)
        else:
            heard.append(folder)
    return heard, remote


def _folder(source: str) -> Path:
    """Return the folder that a source, or a pattern of tars, lies in."""
    path = Path(whole_path(local_path(source)))
    while _MAGIC.search(str(path)) or not path.is_dir():
        if path == path.parent:
            break
        path = path.parent
    return path


def _file_system(folder: Path) -> str:
    """Return the type of the file system that holds a folder; empty where that cannot be told."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        fields = line.split()
        place, type_ = fields[4].replace("\\040", " "), fields[fields.index("-") + 1]
        if folder.is_relative_to(place) and len(place) >= len(best):
            best, kind = place, type_
    return kind


def _look(config: Config) -> Plan | None:
    try:
        return plan(config)
    except (PseudolabelError, OSError) as error:  # it may pass: a mount that is gone for a while
        logger.warning("cannot look for new files: %s", error)
        return None


def _work(found: Plan) -> tuple[object, ...]:
    return found.to_read, found.new, found.changed, found.gone, found.tars, tuple(found.stale)


def _due(found: Plan | None, longest: float) -> float:
    """Return the seconds until the next look at the latest."""
    if found is None or not found.waiting_files:
        return longest
    first = (found.waiting_files[0].taken_from - datetime.now(UTC)).total_seconds()
    return min(longest, max(first, 0) + 0.5)


async def _woken(changed: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(changed.wait(), seconds)
    except TimeoutError:
        return False
    return True


async def _pause(seconds: float) -> None:
    logger.warning("the run was no use: the next one begins in %g s at the earliest", seconds)
    await asyncio.sleep(seconds)


async def _hear(folders: list[Path], store: Path, changed: asyncio.Event) -> None:
    """Set `changed` at each change below the folders; end where that cannot be heard."""
    from watchfiles import Change, awatch

    def matters(_: Change, path: str) -> bool:
        return not Path(path).name.startswith(".") and not Path(path).is_relative_to(store)

    if not folders:
        return
    try:
        changes = awatch(
            *folders,
            watch_filter=matters,
            force_polling=False,
            ignore_permission_denied=True,
            debounce=400,
        )
        async for _ in changes:
            changed.set()
    except (OSError, RuntimeError) as error:  # a source that went, or more folders than it watches
        logger.warning("changes cannot be heard of (%s): looking now and then instead", error)
