"""Runs of the real command line that can be killed at any moment, without waiting for torch.

A warm process imports everything once and forks a child for each run. The child is a session of its
own and calls the very `main` of the console script.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_SERVER = """
import json, os, sys
import faiss, jinja2, matplotlib.backends.backend_agg, matplotlib.figure, open_clip, PIL.Image
import polars, scipy.optimize, simplejpeg, sklearn.linear_model, torch
import flows.cli, flows.embedding, flows.stages
import pipeline.clip.embed, pipeline.clip.encoder, pipeline.clip.resizing, pipeline.images.workers
import pipeline.reports.contact_sheet, pipeline.reports.plots, pipeline.reports.run_page
import pipeline.training.heads.linear, pipeline.training.train
PIL.Image.init()
print("ready", flush=True)
for line in sys.stdin:
    arguments, log = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1), os.dup2(file, 2)
        sys.argv = ["pseudolabel", *arguments]
        code = 1
        try:
            flows.cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(pid, flush=True)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@dataclass
class Ended:
    """How a run ended."""

    code: int  # minus the signal, where it was killed
    seconds: float
    output: str


class Runs:
    """Starts runs one after another, each killed after some seconds or left to its end."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._down: IO[str] = process.stdin
        self._up: IO[str] = process.stdout
        self._log = log

    def run(self, *arguments: str, kill_after: float | None = None) -> Ended:
        """Run `pseudolabel` with these arguments; after `kill_after` seconds it is killed (-9)."""
        self._log.write_text("")
        pid, started = self.start(*arguments), time.monotonic()
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):  # it had ended by itself
                os.killpg(pid, signal.SIGKILL)
        return self.end(started)

    def start(self, *arguments: str) -> int:
        """Start a run, and return its process and group."""
        self._down.write(json.dumps([arguments, str(self._log)]) + "\n")
        self._down.flush()
        pid = int(self._up.readline())
        while os.getpgid(pid) != pid:  # it becomes a group of its own in a moment
            time.sleep(0.001)
        return pid

    def end(self, started: float) -> Ended:
        """Wait for the run that was started."""
        code = int(self._up.readline())
        return Ended(code, time.monotonic() - started, self._log.read_text())


@contextmanager
def warm_runs(folder: Path) -> Iterator[Runs]:
    """Load everything once; runs log into `folder`."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
    ) as process:
        runs = Runs(process, folder / "runs.log")
        assert runs._up.readline() == "ready\n"
        try:
            yield runs
        finally:
            process.kill()
