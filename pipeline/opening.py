"""Stores are opened here: by their location, a local folder or a url such as s3://bucket/prefix."""

import json
import logging

import pyarrow.fs

from pipeline.errors import DamagedFileError, InputError, StoreError
from pipeline.folder import TEMPORARY, Folder, LocalFolder
from pipeline.homes import without_tilde
from pipeline.repair import restored_identity
from pipeline.store import CHECK, FORMAT, IDENTITY, LOCK, Store

_CURE = "`pseudolabel verify` makes it again from what the parts say"
logger = logging.getLogger(__name__)


def raw_store(location: str) -> Store:
    """Return the store at `location` as it is, be it absent or damaged."""
    return Store(_folder(location))


def peek_store(location: str) -> Store:
    """Return the store at `location`; where nothing is, an absent one: nothing is made.

    Raises:
        InputError: something else is there.
        StoreError: it is damaged, or another version of this program wrote it.
    """
    store = raw_store(location)
    if store.get(IDENTITY) is None:
        _require_nothing(store.folder)
        return store
    written = _format(store)
    if written != FORMAT:
        raise StoreError(f"{location}: store format {written}, this program reads {FORMAT}")
    return store


def open_store(location: str) -> Store:
    """Open a store that exists.

    Raises:
        InputError: there is none at `location`.
        StoreError: it is damaged, or another version of this program wrote it.
    """
    store = raw_store(location)
    if store.get(IDENTITY) is None and not store.parts("embeddings"):
        raise InputError(f"{location}: no store here; `pseudolabel run` makes one")
    return peek_store(location)


def damaged_store(location: str) -> Store:
    """Open a store that may be damaged, to put it right.

    Raises:
        InputError: there is none at `location`.
    """
    store = raw_store(location)
    if store.get(IDENTITY) is None and not store.parts("embeddings"):
        raise InputError(f"{location}: no store here; `pseudolabel run` makes one")
    return store


def create_store(location: str) -> Store:
    """Open the store at `location` to write to it, making an empty one where there is nothing.

    Raises:
        InputError: something else is there.
    """
    try:
        store = peek_store(location)
    except DamagedFileError as damage:
        store = raw_store(location)
        store.put_json(IDENTITY, restored_identity(store))
        logger.warning("%s: it was made again from what the parts say", damage)
    if store.get(IDENTITY) is None:
        store.put_json(IDENTITY, {"format": FORMAT})
    return store


def known_model(location: str) -> str:
    """Return the name of the model that a store was made with; empty where there is none."""
    store = raw_store(location)
    try:
        return str(store.get_json(IDENTITY).get("model", ""))
    except DamagedFileError:
        return str(restored_identity(store).get("model", ""))


def _format(store: Store) -> object:
    try:
        return store.get_json(IDENTITY).get("format")
    except DamagedFileError as damage:
        try:
            content = json.loads(store.get(IDENTITY) or b"")
        except ValueError:
            raise damage from None
        if not isinstance(content, dict) or CHECK in content:
            raise
        return content.get("format")  # written before files had a checksum


def _folder(location: str) -> Folder:
    if "://" in location:
        from pipeline.buckets import open_bucket  # here: connecting loads the cloud's own libraries

        return open_bucket(location)
    return LocalFolder(without_tilde(location))


def _require_nothing(folder: Folder) -> None:
    wanted = pyarrow.fs.FileSelector(folder.full(""), allow_not_found=True)
    if isinstance(folder, LocalFolder) and folder.root.is_file():
        raise InputError(f"{folder.location}: is a file; a store is a folder")
    names = {entry.base_name for entry in folder.filesystem.get_file_info(wanted)} - {LOCK}
    # What is left of a run that was killed over its first write is no file of anybody's.
    if {"files", "embeddings"} <= names:
        raise StoreError(f"{folder.location}: store.json is gone: {_CURE}")
    if any(not name.startswith(TEMPORARY) for name in names):
        raise InputError(
            f"{folder.location}: holds files but no store; name an empty or new folder"
        )
