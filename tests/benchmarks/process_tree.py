"""A command in; what time and core time it took, and the most memory that all of it held, out."""

import os
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.processes import core_seconds

ROOT = Path(__file__).resolve().parents[2]
_EVERY = 0.05  # seconds between two looks at memory


@dataclass(frozen=True)
class Ended:
    """A process that did what it should."""

    seconds: float
    core_seconds: float  # of it and of all that it waited for
    output: str
    peak: float | None  # MB, where memory was watched


def finish(
    command: Sequence[str], *, also: Mapping[str, str] | None = None, watch: bool = False
) -> Ended:
    """Run a command to its end.

    Args:
        command: the program and what it is given.
        also: environment variables on top of our own.
        watch: look at its memory. Looking takes time of the cores that are measured, so a run that
            is watched is not one to be timed.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    with tempfile.TemporaryFile() as said:
        began, used = time.perf_counter(), core_seconds()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(also or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        watcher = _Watcher(process.pid) if watch else None
        output = process.communicate()[0].decode(errors="replace")
        seconds, used = time.perf_counter() - began, core_seconds() - used
        peak = watcher.stop() if watcher else None
        said.seek(0)
        if process.returncode:
            trouble = (said.read().decode(errors="replace") + output)[-3000:]
            raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{trouble}")
    return Ended(seconds, used, output, peak)


class _Watcher:
    """Samples the memory of a process and of all its descendants until it is stopped."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak = pid, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Return the peak in MB."""
        self._over.set()
        self._thread.join()
        return self._peak / 1024

    def _look(self) -> None:
        while not self._over.wait(_EVERY):
            self._peak = max(self._peak, sum(map(_kilobytes, _family(self._pid))))


def _kilobytes(pid: int) -> int:
    """Return the proportional set size: a page that n processes share counts 1/n for each."""
    with suppress(OSError):  # it may have ended meanwhile
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def _family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):
                # The name, in brackets, may itself hold brackets and blanks.
                after = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                children[int(after[1])].append(int(entry.name))
    found = [pid]
    for parent in found:  # it grows as we go
        found += children[parent]
    return found
