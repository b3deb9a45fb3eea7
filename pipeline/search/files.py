"""Files of an index: checked when they are read, and mapped where they lie on this machine."""

import hashlib
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa

from pipeline.folder import LocalFolder
from pipeline.store import Store


def read_faiss(store: Store, name: str, checksum: str, *, mapped: bool = True) -> faiss.Index:
    """Read a FAISS file.

    Args:
        store: where it lies.
        name: of the file.
        checksum: the SHA-256 that it was written with.
        mapped: leave it on the disk, where that is of this machine; nothing can be added then.

    Raises:
        DamagedFileError: it is not as it was written.
        FileNotFoundError: it is not there, or not any more.
    """
    if store.local is None:
        return faiss.deserialize_index(np.frombuffer(read_checked(store, name, checksum), np.uint8))
    path = store.local / name
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != checksum:
            raise store.damaged(name, "it does not match its checksum")
    return _open(path, faiss.IO_FLAG_MMAP_IFC if mapped else 0)


def map_checked(store: Store, name: str, checksum: str) -> pa.Buffer:
    """Map a file; where it lies elsewhere it is read whole; raises as `read_faiss`."""
    if store.local is None:
        return pa.py_buffer(read_checked(store, name, checksum))
    with pa.memory_map(str(store.local / name)) as file:
        data = file.read_buffer()
    _require(store, name, data, checksum)
    return data


def read_checked(store: Store, name: str, checksum: str) -> bytes:
    """Read a whole file; raises as `read_faiss`."""
    data = store.get(name)
    if data is None:
        raise FileNotFoundError(name)
    _require(store, name, data, checksum)
    return data


def write_faiss(store: Store, name: str, index: faiss.Index) -> tuple[str, int]:
    """Write a FAISS file, on this machine without a second copy in memory.

    Returns:
        Its SHA-256, and its bytes.
    """
    if isinstance(store.folder, LocalFolder):
        with store.folder.placing(name) as path:
            faiss.write_index(index, str(path))
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
    data = faiss.serialize_index(index).data
    store.put(name, data)
    return hashlib.sha256(data).hexdigest(), data.nbytes


def _require(store: Store, name: str, data: bytes | pa.Buffer, checksum: str) -> None:
    if hashlib.sha256(data).hexdigest() != checksum:
        raise store.damaged(name, "it does not match its checksum")


def _open(path: Path, flags: int) -> faiss.Index:
    try:
        return faiss.read_index(str(path), flags)
    except RuntimeError:
        if path.exists():
            raise
        raise FileNotFoundError(str(path)) from None  # replaced by a newer one meanwhile
