"""Where a store's files lie: a local folder here, object storage in `buckets`; one protocol.

A file is complete or absent, whatever happens while it is written. Names are relative, with `/`.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pyarrow.fs

TEMPORARY = ".tmp-"


class Folder(Protocol):
    """The files of one store."""

    location: str  # as the user wrote it, for messages
    filesystem: pyarrow.fs.FileSystem

    def full(self, name: str) -> str:
        """Return the path of a file inside `filesystem`."""

    def read(self, name: str) -> bytes | None:
        """Return a whole file; None when there is none."""

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Commit a whole file: after a power cut it is complete or as it was."""

    def delete(self, name: str) -> None:
        """Remove a file; that there is none is fine."""

    def names(self, folder: str) -> list[str]:
        """Return the names of the files directly in a folder, sorted; none when it is absent."""

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file below, by name."""

    def sweep(self) -> None:
        """Remove what an interrupted writer left half-written; only the lock's holder may."""


class LocalFolder:
    """A folder of this machine, or one that is mounted here."""

    def __init__(self, root: Path) -> None:
        """Nothing is made until the first write."""
        self.root, self.location = root, str(root)
        self.filesystem = pyarrow.fs.LocalFileSystem()

    def full(self, name: str) -> str:
        """Return the path of a file."""
        return str(self.root / name)

    def read(self, name: str) -> bytes | None:
        """Return a whole file; None when there is none."""
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write to a temporary name in the same folder, flush to the disk, rename."""
        with self.placing(name) as temporary:
            temporary.write_bytes(data)

    @contextmanager
    def placing(self, name: str) -> Iterator[Path]:
        """Give a path to write a file to; it is committed when that went well."""
        final = self.root / name
        _make_folder(final.parent)
        temporary = final.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(final)
            _sync(final.parent)  # or the rename itself may not survive a power cut
        except OSError as error:
            if error.filename == str(temporary):  # a name that nobody asked for
                error.filename = str(final)
            raise
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Remove a file; that there is none is fine."""
        (self.root / name).unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        """Return the names of the files directly in a folder, sorted; none when it is absent."""
        try:
            with os.scandir(self.root / folder) as entries:
                return sorted(e.name for e in entries if e.is_file() and not _is_temporary(e.name))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file below, by name; what goes away meanwhile is left out."""
        found = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder) / name
                try:
                    found[path.relative_to(self.root).as_posix()] = path.stat().st_size
                except FileNotFoundError:
                    continue
        return found

    def sweep(self) -> None:
        """Remove what an interrupted writer left half-written; only the lock's holder may."""
        for folder, _, names in os.walk(self.root):
            for name in filter(_is_temporary, names):
                (Path(folder) / name).unlink(missing_ok=True)


def _is_temporary(name: str) -> bool:
    return name.startswith(TEMPORARY)


def _make_folder(folder: Path) -> None:
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        _sync(place.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
