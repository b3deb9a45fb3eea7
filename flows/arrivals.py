"""File arrival: a run is begun when a look says that there is work, and looks are cheap.

What makes us look: the kernel tells of changes in folders of this machine; buckets and network
mounts tell nothing, so they are looked at now and then; and a file that must settle first is looked
at when it is old enough.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from flows.hearing import Hearing
from flows.plan import Plan, plan
from pipeline.config import Config
from pipeline.errors import PseudolabelError
from pipeline.images.paths import whole_path

logger = logging.getLogger(__name__)

Run = Callable[[], Awaitable[bool]]  # begins a run and waits for it; whether it was completed

QUIET_SECONDS = 1.0  # after a change, for more of them: files come in crowds
_AT_LEAST_SECONDS = 900.0  # between looks: the kernel may drop what it would tell
_PAUSE_SECONDS, _LONGEST_PAUSE = 10.0, 600.0  # after runs that were no use


async def watch(config: Config, run: Run) -> None:
    """Run whenever files have arrived, have settled or went; until cancelled."""
    hearing = Hearing(config.sources, Path(whole_path(config.store)))
    listening = asyncio.create_task(hearing.listen())
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
            polled = not hearing.whole or found is None
            longest = config.scan.poll_seconds if polled else _AT_LEAST_SECONDS
            if await _woken(hearing.changed, _due(found, longest)):
                await asyncio.sleep(max(QUIET_SECONDS, 2 * took))
            hearing.changed.clear()
    finally:
        listening.cancel()


def _look(config: Config) -> Plan | None:
    try:
        return plan(config)
    except (PseudolabelError, OSError) as error:  # it may pass: a mount that is gone for a while
        logger.warning("cannot look for new files: %s", error)
        return None


def _work(found: Plan) -> tuple[object, ...]:
    return found.mark, tuple(found.stale)


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
