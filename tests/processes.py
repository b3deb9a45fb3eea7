"""Processes that tests start, and what they leave behind."""

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx


def wait_until(true: Callable[[], object], seconds: float = 90) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def core_seconds() -> float:
    """Return the core time of all processes that we, or they, waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def ask_prefect(url: str, route: str, content: dict[str, Any] | None = None) -> Any:
    """Ask a Prefect server; again where its SQLite was too busy (503), as its own clients do."""
    method = "GET" if content is None else "POST"
    for _ in range(30):
        answer = httpx.request(method, f"{url}/api/{route}", json=content, timeout=60)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            break
        time.sleep(1)
    if not answer.is_success:
        raise httpx.HTTPStatusError(answer.text, request=answer.request, response=answer)
    return answer.json()


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be looked at does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def descendants(pid: int) -> set[int]:
    """Return the processes below one, of whatever session."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        below = parents.get(waiting.pop(), [])
        found.update(below)
        waiting += below
    return found


@dataclass
class Started:
    """A process with what it has said so far."""

    process: "subprocess.Popen[str]"
    said: list[str] = field(default_factory=list)
    ever: set[int] = field(default_factory=set)  # of its descendants, those that were looked at

    @property
    def output(self) -> str:
        return "".join(self.said)

    def look(self) -> set[int]:
        """Note and return what runs below it."""
        found = descendants(self.process.pid)
        self.ever |= found
        return found

    def says(self, words: str, seconds: float = 120) -> None:
        wait_until(lambda: words in self.output or self.process.poll() is not None, seconds)
        assert words in self.output, self.output

    def stop(self, number: int, seconds: float = 20) -> int:
        """Signal it, and return its exit code; nothing that was seen below it may be left."""
        self.look()
        self.process.send_signal(number)
        code = self.process.wait(seconds)
        wait_until(lambda: not any(map(alive, self.ever)), 15)
        return code


@contextmanager
def started(*command: str, cwd: Path, **environment: str) -> Iterator[Started]:
    """Run a command of this environment in a group of its own; kill what is left in the end."""
    program = str(Path(sys.executable).with_name(command[0]))
    process = subprocess.Popen(
        [program, *command[1:]],
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    run = Started(process)
    assert process.stdout is not None
    reader = threading.Thread(target=run.said.extend, args=[process.stdout], daemon=True)
    reader.start()
    try:
        yield run
    finally:
        for pid in {*run.look(), *run.ever, process.pid}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        reader.join(10)
