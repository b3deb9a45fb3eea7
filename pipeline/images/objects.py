"""Object storage: a prefix in, columns of every object below it out; objects and pieces of them.

What pyarrow or fsspec reaches is read through one interface, `pipeline.remote`. An object appears
whole or not at all, so none waits to be complete.
"""

import io
from collections.abc import Callable
from functools import lru_cache
from typing import BinaryIO, TypeVar, cast

import polars as pl
import pyarrow.fs as fs

from pipeline.errors import InputError, StorageError
from pipeline.images.folders import Columns, in_range
from pipeline.remote import RefusedError, TransferError, connect, fetch, persist

T = TypeVar("T")

NOT_FETCHED = "not fetched"  # begins the reason of what the network kept from us
_ATTEMPTS, _FIRST_WAIT = 3, 0.5  # seconds
_BUFFER = 4 * 2**20  # bytes per request while a tar's headers are looked for


def object_root(source: str) -> str:
    """Return the URL of a source without what it ends in needlessly.

    Raises:
        InputError: there is nothing at it, or it is a single object.
    """
    root = source.rstrip("/")
    filesystem, path = locate(root)
    kind = _listed(source, lambda: filesystem.get_file_info(path)).type
    if kind == fs.FileType.NotFound:
        raise InputError(f"source {source}: nothing there")
    if kind == fs.FileType.File:
        raise InputError(f"source {source}: is a file; name the prefix it lies below")
    return root


def list_objects(root: str, leave_out: str | None) -> pl.DataFrame:
    """List every object below a prefix; none with a name or folder that begins with a dot.

    Args:
        root: as `object_root` returns it.
        leave_out: the URL of a store, which may lie below.

    Returns:
        Columns as in LISTING.

    Raises:
        InputError: it cannot be listed whole. Half a listing would make the rest look gone.
        StorageError: neither, for the storage does not answer.
    """
    columns = Columns(root)
    for path, info in below(root, recursive=True):
        hidden = "/." in path[len(root) :]
        store = leave_out is not None and path.startswith(f"{leave_out}/")
        if info.is_file and not hidden and not store:
            columns.add(path, *size_and_time(info))
    return columns.frame()


def below(root: str, *, recursive: bool) -> list[tuple[str, fs.FileInfo]]:
    """Return the URL and description of everything below a prefix.

    Raises:
        InputError: it cannot be listed whole.
        StorageError: neither, for the storage does not answer.
    """
    filesystem, base = locate(root)
    wanted = fs.FileSelector(base, recursive=recursive)
    found = _listed(root, lambda: filesystem.get_file_info(wanted))
    start = len(base.strip("/"))
    return [(root + info.path.strip("/")[start:], info) for info in found]


def describe(url: str) -> fs.FileInfo:
    """Return the description of a single object, one that is not there too.

    Raises:
        InputError: it may not be asked for.
        StorageError: the storage does not answer.
    """
    filesystem, path = locate(url)
    return _listed(url, lambda: filesystem.get_file_info(path))


def size_and_time(info: fs.FileInfo) -> tuple[int, int]:
    """Return bytes and nanoseconds since 1970; 0 where the storage does not tell."""
    return info.size or 0, in_range(info.mtime_ns or 0)


def fetch_object(url: str) -> bytes:
    """Return a whole object, retries included.

    Raises:
        OSError: it is not there, may not be read, or did not arrive.
    """
    # Who knows its size from a listing compares: that saves a request for every object.
    return fetch(*locate(url), recheck=False)


def fetch_range(url: str, offset: int, size: int, *, of: int | None = None) -> bytes:
    """Return some bytes of an object, fewer where it ends before, retries included.

    Args:
        url: of the object.
        offset: the first byte.
        size: how many.
        of: the time of its last change in nanoseconds, where another state of it is of no use.

    Raises:
        OSError: it is not there, not as it was, may not be read, or did not arrive.
    """
    filesystem, path = locate(url)

    def read() -> bytes:
        if of is not None and size_and_time(filesystem.get_file_info(path))[1] != of:
            raise FileNotFoundError(f"{url}: is not as it was")
        with filesystem.open_input_file(path) as file:
            return bytes(file.read_at(size, offset))

    return retried(read)


def open_object(url: str) -> BinaryIO:
    """Open an object to be looked through from beginning to end; nothing is tried twice.

    Raises:
        OSError: it is not there, may not be read, or does not arrive.
    """
    filesystem, path = locate(url)
    return cast(BinaryIO, io.BufferedReader(filesystem.open_input_file(path), _BUFFER))


def retried(read: Callable[[], T]) -> T:
    """Call `read` until it succeeds or trying again cannot help.

    Raises:
        OSError: it did not; `reason_of` it tells why.
    """
    return persist(read, NOT_FETCHED, attempts=_ATTEMPTS, first_wait=_FIRST_WAIT)


def reason_of(error: OSError) -> str:
    """Return the reason for the table: what the network kept from us begins with NOT_FETCHED."""
    return str(error) if isinstance(error, TransferError) else f"cannot be read: {_told(error)}"


def _told(error: OSError) -> str:
    return error.strerror or str(error)


def locate(url: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URL and the path inside it; a bucket is connected to once.

    Raises:
        InputError: it cannot be reached.
        StorageError: it does not answer.
    """
    scheme, _, rest = url.partition("://")
    bucket, slash, key = rest.partition("/")
    filesystem, root = _connected(f"{scheme}://{bucket}")
    return filesystem, (root + slash + key).rstrip("/")


@lru_cache(maxsize=64)
def _connected(bucket: str) -> tuple[fs.FileSystem, str]:
    return connect(bucket)


def _listed(source: str, look: Callable[[], T]) -> T:
    try:
        return persist(look, "failed", attempts=_ATTEMPTS, first_wait=_FIRST_WAIT)
    except (FileNotFoundError, PermissionError, RefusedError) as error:
        raise InputError(f"source {source}: cannot be listed: {error}") from error
    except OSError as error:  # the storage's own trouble: a scheduler may try again
        raise StorageError(f"source {source}: cannot be listed: {error}") from error
