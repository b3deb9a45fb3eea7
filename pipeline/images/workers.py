"""Decoders in processes of their own: a file that crashes, hangs or bloats one costs only itself.

A picture that Pillow merely dislikes comes back as a Refusal, as from `decode`. But a fault in a
C library takes its whole process along, and one that loops hears nothing from Python. What is sure
to do no harm need not be handed over: see `jpegs`.

This is the parent's side; `serving` is the worker's. Between them runs one socket that nothing else
writes to: a name and the file go down, JSON comes up. Pixels lie in memory that both sides see.
"""

import json
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Pipe
from pathlib import Path
from queue import LifoQueue
from threading import Lock
from typing import IO, Self

import numpy as np

from pipeline.images.decoding import Fit, Picture, Refusal
from pipeline.images.serving import SHARED_BYTES

Finish = Callable[[Picture], Picture]  # whose pixels will not last
Here = Callable[[bytes, str], Picture | None]  # a whole file and its name

_ROOT = str(Path(__file__).parents[2])
# OpenBLAS would keep a thread for every core and memory for every thread, for nothing.
_MAIN = """
import json, os, sys
os.putenv("OPENBLAS_NUM_THREADS", "1")
sys.path[:] = json.loads(sys.argv[2])
from pipeline.images.serving import serve
serve(int(sys.argv[1]), int(sys.argv[3]))
"""
_START_SECONDS = 120.0  # imports from a network file system take long


class Decoders:
    """`decode` for many threads at once, each call in one of a few worker processes.

    Workers start when they are first needed, are replaced when they die, and end with their parent
    however that ends.
    """

    def __init__(
        self,
        fit: Fit,
        *,
        max_pixels: int,
        processes: int,
        timeout: float = 60.0,
        finish: Finish = lambda picture: replace(picture, pixels=picture.pixels.copy()),
        here: Here = lambda _data, _name: None,
    ) -> None:
        """Start nothing yet.

        Args:
            fit: resizes and crops an RGB image; can be pickled, best without loading torch.
            max_pixels: larger pictures are refused before they are decoded. It also limits memory:
                256 MB and 20 bytes for each of these pixels are all that a worker may add to
                itself and thrice the file.
            processes: workers at most, 1 or more.
            timeout: seconds that one file may take, above 0.
            finish: what is done here, by the calling thread, with each picture; it must not keep
                the pixels it is given.
            here: decodes, by the calling thread, what is sure to do no harm; None: a worker does.
        """
        if processes < 1:
            raise ValueError(f"processes must be at least 1, got {processes}")
        if not timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, got {timeout}")
        self._setup = pickle.dumps((fit, max_pixels, timeout))
        self._timeout, self._finish, self._here = timeout, finish, here
        # Last in, first out: no more workers are started than are busy at once.
        self._idle: LifoQueue[_Worker | None] = LifoQueue()
        for _ in range(processes):
            self._idle.put(None)
        self._workers: set[_Worker] = set()
        self._lock = Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def decode(self, data: bytes, name: str) -> Picture | Refusal:
        """Decode one file as `decoding.decode` does, waiting for an idle worker if need be.

        Args:
            data: the whole file.
            name: its name; the extension only tells whether an image was promised.

        Raises:
            RuntimeError: the decoders were closed, or a worker cannot even start.
            OSError: the system has no room for another process.
        """
        worker = self._idle.get()  # no more are decoded here at once than there are workers, either
        try:
            if (picture := self._here(data, name)) is not None:
                return self._finish(picture)
            if worker is None or worker.ended():
                worker = self._start()
            try:
                outcome = worker.decode(data, name)
            except (EOFError, OSError):  # it died; whoever gets it next starts another
                code = worker.kill()
            except BaseException:
                worker.kill()  # or its answer to this file would be taken for the next one's
                raise
            else:
                return self._finish(outcome) if isinstance(outcome, Picture) else outcome
            if self._closed:  # not the file's fault
                raise RuntimeError("the decoders were closed")
            return Refusal("unreadable", self._cause_of(code))
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End every worker; what one was decoding is not decoded, and its caller told so."""
        with self._lock:
            self._closed = True
        for worker in self._workers:
            worker.kill()

    def _start(self) -> "_Worker":
        with self._lock:  # none may start unseen while others are closed
            if self._closed:
                raise RuntimeError("the decoders were closed")
            worker = _Worker(self._setup)
            self._workers = {w for w in self._workers if not w.ended()} | {worker}
        try:
            worker.wait_until_ready()
        except RuntimeError:
            if self._closed:  # killed while it started: that is why
                raise RuntimeError("the decoders were closed") from None
            raise
        return worker

    def _cause_of(self, code: int) -> str:
        if code == -signal.SIGALRM:
            return f"decoding took longer than {self._timeout:g} s"
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the decoder crashed ({how})"


class _Worker:
    """One process as the parent sees it, for one thread at a time."""

    def __init__(self, setup: bytes) -> None:
        self._connection, theirs = Pipe()
        path = json.dumps([*sys.path, _ROOT])  # as here, so that `fit` is found
        with theirs, _shared_memory() as memory:
            self._pixels = np.frombuffer(mmap.mmap(memory.fileno(), SHARED_BYTES), np.uint8)
            fds = [theirs.fileno(), memory.fileno()]
            self._process = subprocess.Popen(  # noqa: S603 - our own code
                [sys.executable, "-c", _MAIN, str(fds[0]), path, str(fds[1])],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # libtiff would tell the user what it thinks
                start_new_session=True,  # Ctrl-C and Ctrl-Z are the parent's
            )
        self._setup = setup

    def wait_until_ready(self) -> None:
        try:
            self._connection.send_bytes(self._setup)
            problem = "no answer"
            if self._connection.poll(_START_SECONDS):
                problem = self._connection.recv_bytes().decode()
        except (EOFError, OSError):
            problem = f"exit code {self.kill()}"
        if problem:
            self.kill()
            raise RuntimeError(f"a decoder process cannot start: {problem}")

    def decode(self, data: bytes, name: str) -> Picture | Refusal:
        """Have one file decoded; its pixels last until the next one's.

        Raises:
            EOFError, OSError: the process died over it.
        """
        self._connection.send_bytes(json.dumps([name, len(data)]).encode())
        self._connection.send_bytes(data)
        answer = json.loads(self._connection.recv_bytes())
        if "reason" in answer:
            return Refusal(**answer)
        height, width, bands = answer.pop("shape")
        if answer.pop("shared"):
            flat = self._pixels[: height * width * bands]
        else:
            flat = np.frombuffer(bytearray(self._connection.recv_bytes()), np.uint8)
        return Picture(flat.reshape(height, width, bands), **answer)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> int:
        """End it and whatever it has started; return its exit code, or minus the signal."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):  # macOS's word for a dead one
                os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()


def _shared_memory() -> IO[bytes]:
    """Return a nameless file of SHARED_BYTES that takes no room until it is written to."""
    if sys.platform == "linux":
        file: IO[bytes] = os.fdopen(os.memfd_create("pixels"), "r+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.truncate(SHARED_BYTES)
    return file
