"""A store's files on object storage, or anywhere else that pyarrow reaches: `Folder` over it.

An object is complete or absent: S3, GCS and Azure show an upload once it is whole. A killed writer
may leave an unfinished upload, which no listing shows but a bill does; a lifecycle rule of the
bucket ends those. Elsewhere (hdfs, sftp ...) a file is written under a temporary name and moved,
which is as atomic as a move is there; fsspec's own is often a copy.
"""

import re
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

from pyarrow import fs

from pipeline import remote
from pipeline.folder import TEMPORARY

T = TypeVar("T")

_SINGLE_PUT = 5_000_000  # bytes; S3's multipart uploads begin at 5 MiB, pyarrow's at 10
_ATOMIC = re.compile(r"\b(s3|s3a|gcs|gs|abfs|abfss|az|memory)\b")  # in a file system's type name


class Bucket:
    """The files below one prefix."""

    def __init__(
        self,
        location: str,
        filesystem: fs.FileSystem,
        root: str,
        *,
        small: fs.FileSystem | None = None,
        attempts: int = 3,
        first_wait: float = 0.5,
    ) -> None:
        """Nothing is asked or made until the first call.

        Args:
            location: the url as the user wrote it, for messages.
            filesystem: as `remote.connect` returns it.
            root: the path inside it.
            small: one that writes small objects in fewer requests.
            attempts: how often to try where trying again can help.
            first_wait: seconds before the second attempt.
        """
        self.location, self.filesystem, self.root = location, filesystem, root
        self._small = small or filesystem
        self._atomic = _ATOMIC.search(filesystem.type_name) is not None
        self._attempts, self._first_wait = attempts, first_wait

    def full(self, name: str) -> str:
        """Return the path of a file inside `filesystem`; that of the root for no name."""
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str) -> bytes | None:
        """Return a whole file; None when there is none.

        Raises:
            OSError: it cannot be read; `PermissionError` or `remote.TransferError`.
        """
        try:
            return remote.fetch(
                self.filesystem,
                self.full(name),
                attempts=self._attempts,
                first_wait=self._first_wait,
            )
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Commit a whole file: it is complete or as it was, whenever this process dies.

        Raises:
            OSError: it cannot be written; `PermissionError` or `remote.TransferError`.
        """
        final = self.full(name)
        if self._atomic:
            self._put(final, data)
            return
        folder = final.rpartition("/")[0]
        temporary = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}"
        self.filesystem.create_dir(folder, recursive=True)
        try:
            self._put(temporary, data)
            self._move(temporary, final)
        except BaseException:
            self._remove(temporary)
            raise

    def delete(self, name: str) -> None:
        """Remove a file; that there is none is fine."""
        self._remove(self.full(name))

    def names(self, folder: str) -> list[str]:
        """Return the names of the files directly in a folder, sorted; none when it is absent."""
        return sorted(
            info.base_name
            for info in self._list(folder, recursive=False)
            if not info.base_name.startswith(TEMPORARY)
        )

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file below, by name."""
        start = len(self.root.strip("/")) + 1  # fsspec is not of one mind about a leading slash
        return {info.path.strip("/")[start:]: info.size for info in self._list("", recursive=True)}

    def sweep(self) -> None:
        """Remove what an interrupted writer left half-written; only the lock's holder may."""
        if self._atomic:
            return
        for info in self._list("", recursive=True):
            if info.base_name.startswith(TEMPORARY):
                self._remove(info.path)

    def _put(self, path: str, data: bytes | memoryview) -> None:
        small = memoryview(data).nbytes <= _SINGLE_PUT
        filesystem = self._small if small else self.filesystem
        # In a thread, for a stream commits what it has when it goes away, and a signal between
        # opening and writing would make that nothing. Signals reach the main thread only; Ctrl-C
        # waits here for the upload to end.
        with ThreadPoolExecutor(1) as thread:
            upload = partial(_upload, filesystem, path, data)
            thread.submit(self._persist, upload, "not stored").result()

    def _move(self, temporary: str, final: str) -> None:
        try:
            self.filesystem.move(temporary, final)
        except OSError:  # hdfs moves onto nothing that exists
            self._remove(final)
            self.filesystem.move(temporary, final)

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._persist(lambda: self.filesystem.delete_file(path), "not deleted")

    def _list(self, folder: str, *, recursive: bool) -> list[fs.FileInfo]:
        where = fs.FileSelector(self.full(folder), allow_not_found=True, recursive=recursive)
        found = self._persist(lambda: self.filesystem.get_file_info(where), "not listed")
        return [info for info in found if info.type == fs.FileType.File]

    def _persist(self, action: Callable[[], T], failed: str) -> T:
        return remote.persist(action, failed, attempts=self._attempts, first_wait=self._first_wait)


def open_bucket(
    url: str, *, timeout: float = 15.0, request_attempts: int = 3, first_wait: float = 0.5
) -> Bucket:
    """Reach the place that a url names.

    Args:
        url: such as `s3://bucket/prefix`.
        timeout: seconds without a byte before a request is given up; S3 only.
        request_attempts: of every single request, within each attempt at a file; S3 only.
        first_wait: seconds before the second attempt at a file.

    Raises:
        InputError: as `remote.connect`.
    """
    filesystem, root = remote.connect(url, timeout=timeout, attempts=request_attempts)
    small = None
    if filesystem.type_name == "s3":
        # One request where the other needs three. Not for large objects: one whose upload cannot
        # begin would be committed empty when its stream goes away.
        small = remote.s3_twin(filesystem, attempts=request_attempts, allow_delayed_open=True)
    return Bucket(url, filesystem, root, small=small, first_wait=first_wait)


def _upload(filesystem: fs.FileSystem, path: str, data: bytes | memoryview) -> None:
    if isinstance(handler := getattr(filesystem, "handler", None), fs.FSSpecHandler):
        handler.fs.pipe_file(path, bytes(data))
        return
    # No `with`: its end would commit even after a fault in `write`.
    stream = filesystem.open_output_stream(path, compression=None)
    stream.write(data)
    stream.close()
