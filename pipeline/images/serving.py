"""The worker's side of `workers`: files come over a socket, reasons go back, pixels are left in
memory that both sides see.

The process limits itself, in time and memory, before it touches a file; it writes to nothing else.
"""

import ctypes
import gc
import json
import mmap
import pickle
import resource
import signal
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from PIL import Image

from pipeline.images.decoding import Picture, Refusal, decode
from pipeline.images.formats import load_plugins

# What a worker may take for one file, on top of what it is.
_BASE_BYTES = 256 << 20
_BYTES_PER_PIXEL = 20  # seen: JPEG 5, rotated JPEG 9, AVIF 10, WebP 17, JPEG 2000 19
_COPIES_OF_FILE = 3  # as received, and as decoders copy it
SHARED_BYTES = 12 << 20  # of pixels that both sides see; more of them go over the socket
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def serve(fd: int, shared_fd: int) -> None:
    """Be a worker: decode what comes over a socket until its other end is closed."""
    connection, shared = Connection(fd), mmap.mmap(shared_fd, SHARED_BYTES)
    try:
        # From our own parent, who alone holds the other end.
        fit, max_pixels, timeout = pickle.loads(connection.recv_bytes())  # noqa: S301
    except Exception as error:
        connection.send_bytes(f"{type(error).__name__}: {error}".encode())
        return
    load_plugins()
    _prepare(max_pixels)
    connection.send_bytes(b"")
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            name, size = json.loads(connection.recv_bytes())
            _allow_memory(_BASE_BYTES + _BYTES_PER_PIXEL * max_pixels + _COPIES_OF_FILE * size)
            data = connection.recv_bytes()
            signal.setitimer(signal.ITIMER_REAL, timeout)
            outcome = decode(data, name, fit, max_pixels=max_pixels)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _answer(connection, shared, outcome)
            del data, outcome
            gc.collect()  # some of Pillow's pictures hold on to themselves


def _prepare(max_pixels: int) -> None:
    """Set what holds for every file."""
    warnings.simplefilter("ignore")
    # A cap on what lies within a file, too: Pillow refuses what has more than twice this.
    Image.MAX_IMAGE_PIXELS = max_pixels
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # When the time is over the kernel itself ends this process, whatever it is doing.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    with suppress(OSError, AttributeError):  # no glibc
        # Left to itself, malloc keeps the memory of one large picture for good.
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 4 << 20)
        ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, 64 << 20)
    gc.freeze()  # what is here to stay is not looked at again by every `gc.collect`


def _allow_memory(more: int) -> None:
    """Let this process grow by so many bytes at most; beyond, Python raises MemoryError."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return  # no Linux, which alone keeps the limit
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + more
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def _answer(connection: Connection, shared: mmap.mmap, outcome: Picture | Refusal) -> None:
    if isinstance(outcome, Refusal):
        connection.send_bytes(json.dumps(vars(outcome)).encode())
        return
    about = {name: value for name, value in vars(outcome).items() if name != "pixels"}
    pixels = outcome.pixels.reshape(-1).data
    fits = len(pixels) <= SHARED_BYTES
    if fits:
        shared[: len(pixels)] = pixels
    about |= {"shape": outcome.pixels.shape, "shared": fits}
    connection.send_bytes(json.dumps(about).encode())
    if not fits:
        connection.send_bytes(pixels)
