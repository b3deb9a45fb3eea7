"""Object storage: a url in, a pyarrow file system out; whole objects come out, with retries.

Endpoint and credentials come from the usual environment variables, which the storage's own SDK
reads: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION.
A url is taken as it is written, as the AWS command line does: `%20` is three characters of a name.
"""

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import quote

import fsspec  # type: ignore[import-untyped]
import pyarrow as pa
from pyarrow import fs

from pipeline.errors import InputError, StorageError

T = TypeVar("T")

_CHANCE = random.SystemRandom()  # not seeded: two processes must not pause in step
# pyarrow's only account of an S3 fault is its text; names of objects may stand in it, so the search
# is for this and no less.
_FAULT = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))? during")
_GONE = re.compile(r"NO_SUCH_|NOT_FOUND|404")
_DENIED = re.compile(r"DENIED|ACCESS_KEY|SIGNATURE|TOKEN|CREDENTIALS|401|403")
_HOPELESS = re.compile(r"VALIDATION|INVALID|MALFORMED|3\d\d|4(?!08|09|29)\d\d")
_NATIVE = {"s3", "gcs", "abfs"}  # what pyarrow itself speaks, where a path begins with a bucket


class TransferError(OSError):
    """An object that was not read or written, however often it was tried."""


class RefusedError(TransferError):
    """A request that the storage refuses: trying it again cannot help."""


def connect(
    url: str, *, timeout: float = 15.0, connect_timeout: float = 5.0, attempts: int = 3
) -> tuple[fs.FileSystem, str]:
    """Reach the storage that a url names; the place inside it need not exist yet, its bucket must.

    Args:
        url: such as `s3://bucket/prefix`: any that pyarrow or fsspec knows.
        timeout: seconds without a byte before a request is given up; S3 only. Google's client
            gives up after so many seconds in all.
        connect_timeout: seconds for a connection to open; S3 only.
        attempts: of every single request, with growing pauses; S3 only.

    Returns:
        The file system, and the path of the url inside it, without a slash at its end.

    Raises:
        InputError: it cannot be reached; names the url, the fault and the cure.
        StorageError: the same, where it does not answer or fails of itself.
    """
    scheme, _, rest = url.partition("://")
    bucket = rest.partition("/")[0]
    if "@" in bucket and scheme in ("s3", "s3a"):
        raise InputError(
            f"{scheme}://...@{rest.partition('@')[2]}: a url is stored and shown, so it must hold "
            "no keys; put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    try:
        if scheme in ("s3", "s3a"):
            filesystem, path = _s3(bucket, timeout, connect_timeout, attempts), rest
        else:
            filesystem, path = _other(url, timeout)
        path = path.rstrip("/")
        _require_bucket(filesystem, path)
    except (OSError, pa.ArrowException) as error:  # Azure's have no kind of their own
        kind = StorageError if _may_pass(error) else InputError
        raise kind(f"{url}: {_cure(error)}") from error
    return filesystem, path


def s3_twin(model: fs.FileSystem, *, attempts: int, **changes: object) -> fs.FileSystem:
    """Return an S3 file system like `model` but for some options of `S3FileSystem`.

    Args:
        model: an S3 file system.
        attempts: of every single request; the one option that `model` does not tell.
        changes: the other options.
    """
    _, (options,) = model.__reduce__()  # what pickling keeps: the only way to read them all
    kept = {name: value for name, value in options.items() if value}
    if not options["proxy_options"]["host"]:
        del kept["proxy_options"]
    retries = fs.AwsStandardS3RetryStrategy(max_attempts=attempts)
    return fs.S3FileSystem(**{**kept, **changes}, retry_strategy=retries)


def fetch(
    filesystem: fs.FileSystem,
    path: str,
    *,
    attempts: int = 3,
    first_wait: float = 0.5,
    recheck: bool = True,
) -> bytes:
    """Read a whole object, never a part of it.

    Args:
        filesystem: as `connect` returns it.
        path: inside it.
        attempts: how often to try where trying again can help.
        first_wait: seconds before the second attempt; doubled each time, up to half taken off.
        recheck: ask for the size once more afterwards. Off saves a request, and an object that is
            replaced by a longer one just now may come out cut to its old length.

    Raises:
        FileNotFoundError: there is none.
        PermissionError: it may not be read.
        TransferError: all attempts failed; the message is the reason to show.
    """

    def read() -> bytes:
        # Not open_input_stream, which asks for 256 KiB a request.
        with filesystem.open_input_file(path) as file:
            size, data = file.size(), file.read()
        if recheck:
            size = filesystem.get_file_info(path).size
        if len(data) != size:
            raise OSError(f"{len(data)} bytes came, the object has {size}")
        return bytes(data)

    return persist(read, "not fetched", attempts=attempts, first_wait=first_wait)


def persist(action: Callable[[], T], failed: str, *, attempts: int, first_wait: float) -> T:
    """Call `action` until it succeeds or trying again cannot help.

    Raises:
        FileNotFoundError: what it is about is not there.
        PermissionError: it is not allowed.
        RefusedError: trying again cannot help; the message is as that of a TransferError.
        TransferError: "`failed` after n attempts: the last fault".
    """
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except (FileNotFoundError, PermissionError):
            raise
        except (OSError, pa.ArrowException) as error:
            text, fault = _short(error), _fault(error)
            if _GONE.search(fault):
                raise FileNotFoundError(text) from error
            if _DENIED.search(fault):
                raise PermissionError(text) from error
            kind = RefusedError if _HOPELESS.search(fault) else TransferError
            if attempt == attempts or kind is RefusedError:
                times = "1 attempt" if attempt == 1 else f"{attempt} attempts"
                raise kind(f"{failed} after {times}: {text}") from error
        time.sleep(first_wait * 2 ** (attempt - 1) * _CHANCE.uniform(0.5, 1))
    raise ValueError(f"attempts must be at least 1, got {attempts}")


def _s3(bucket: str, timeout: float, connect_timeout: float, attempts: int) -> fs.FileSystem:
    if not bucket:
        raise OSError("names no bucket; write s3://bucket/prefix")
    # S3FileSystem() does not read AWS_ENDPOINT_URL; from_uri does, but takes no timeouts. On AWS
    # itself from_uri also looks up the bucket's region.
    try:
        found, _ = fs.FileSystem.from_uri(f"s3://{quote(bucket)}")
    except OSError as error:
        if "not found" in str(error):
            raise
        # No way to ask (a closed network, a partition of its own): trust AWS_REGION.
        found, _ = fs.FileSystem.from_uri(f"s3://{quote(bucket)}?region=")
    return s3_twin(
        found, attempts=attempts, request_timeout=timeout, connect_timeout=connect_timeout
    )


def _other(url: str, limit: float) -> tuple[fs.FileSystem, str]:
    try:
        kept = ":/?&=@+,;" + "%" * url.startswith("file://")  # whose urls are quoted already
        # Google's client alone would try for a quarter of an hour.
        query = f"?retry_limit_seconds={limit}" * url.startswith(("gs://", "gcs://"))
        found, path = fs.FileSystem.from_uri(quote(url, safe=kept) + query)
        return found, path
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # not one that pyarrow speaks itself
    try:
        # A cached listing would hide what other processes write.
        found, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise InputError(f"{url}: a package is missing: {error}") from error
    except ValueError as error:
        raise InputError(
            f"{url}: {error}; name a folder, or storage that pyarrow or fsspec knows "
            "(s3://, gs://, abfs://, hdfs:// ...)"
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(found)), path


def _require_bucket(filesystem: fs.FileSystem, path: str) -> None:
    if filesystem.get_file_info(path).type != fs.FileType.NotFound:
        return
    if filesystem.type_name not in _NATIVE:
        return
    try:
        found = filesystem.get_file_info(path.partition("/")[0]).type != fs.FileType.NotFound
    except OSError as error:
        if not _DENIED.search(_fault(error)):
            raise
        found = True  # some keys open a folder of a bucket, but not the bucket
    if not found:
        raise OSError("no such bucket; make it first, or mend its name")


def _cure(error: Exception) -> str:
    text, fault = _short(error), _fault(error)
    if _GONE.search(fault):
        return "no such bucket; make it first, or mend its name"
    if _DENIED.search(fault):
        return (
            f"access denied ({text}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and "
            "AWS_SESSION_TOKEN with temporary keys) to keys that may list and read there"
        )
    if "SSL" in text:
        return f"no secure connection ({text}); an endpoint without TLS is given as http://..."
    if fault == "NETWORK_CONNECTION":
        return f"the endpoint does not answer ({text}); check AWS_ENDPOINT_URL and the network"
    if _HOPELESS.search(fault):
        return f"the request was refused ({text}); check AWS_REGION and AWS_ENDPOINT_URL"
    if isinstance(error, pa.ArrowException) or "google::cloud" in text or "libjvm" in text:
        return f"{text}; check the network, its credentials, and that its client is installed"
    return text


def _may_pass(error: Exception) -> bool:
    """Tell whether the storage itself fails, and no mistake of the user's."""
    fault, mistakes = _fault(error), (_GONE, _DENIED, _HOPELESS)
    return bool(fault) and "SSL" not in str(error) and not any(m.search(fault) for m in mistakes)


def _fault(error: Exception) -> str:
    found = _FAULT.search(str(error))
    return " ".join(filter(None, found.groups())) if found else ""


def _short(error: Exception) -> str:
    """Return the first line, without what the reader knows."""
    text = re.sub(r"^.*?AWS Error ", "", (str(error).splitlines() or [""])[0])
    return re.sub(r" \(Request ID.*", "", text).strip(" :;") or type(error).__name__
