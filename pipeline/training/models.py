"""A trained head on disk: safetensors for its arrays, JSON for all else that using it needs."""

import hashlib
from dataclasses import dataclass

import safetensors.numpy

from pipeline.errors import InputError
from pipeline.store import Store
from pipeline.training.freshness import FOLDER, HEAD_JSON
from pipeline.training.heads.base import Head, Saved
from pipeline.training.heads.registry import load_head_of


@dataclass(frozen=True)
class SavedHead:
    """A head and what it was made for."""

    head: Head
    classes: list[str]  # the label of each of its outputs, in order
    about: dict[str, object]  # the whole of head.json


def save_head(store: Store, head: Head, about: dict[str, object], fingerprint: str) -> str:
    """Save a head; the JSON names its file of arrays, so the two never disagree.

    Args:
        store: the store; its lock must be held.
        head: fitted.
        about: what else is to be known of it, `classes` among it.
        fingerprint: of all it was made of.

    Returns:
        The path of the JSON, relative to the store.
    """
    old, saved = store.get_json(HEAD_JSON).get("weights"), head.save()
    weights = f"{head.kind}-{fingerprint}.safetensors"
    data = safetensors.numpy.save(saved.tensors)
    content: dict[str, object] = {
        "kind": head.kind,
        "weights": weights,
        "sha256": hashlib.sha256(data).hexdigest(),
        "fingerprint": fingerprint,
        "head": saved.about,
        **about,
    }
    store.put(f"{FOLDER}/{weights}", data)
    store.put_json(HEAD_JSON, content)
    if old and old != weights:
        store.delete(f"{FOLDER}/{old}")
    return HEAD_JSON


def load_head(store: Store) -> SavedHead:
    """Load the trained head.

    Raises:
        InputError: there is none yet.
        DamagedFileError: its files are not as they were written.
    """
    about, data = store.steadily(lambda: _read_head(store))
    kind, inner, classes = about["kind"], about["head"], about["classes"]
    assert isinstance(classes, list) and isinstance(inner, dict)
    head = load_head_of(str(kind), Saved(inner, safetensors.numpy.load(data)))
    return SavedHead(head, [str(name) for name in classes], about)


def _read_head(store: Store) -> tuple[dict[str, object], bytes]:
    about = store.get_json(HEAD_JSON)
    if not about:
        raise InputError(
            f"{store.location}: holds no trained head yet; `pseudolabel train` makes it"
        )
    name = f"{FOLDER}/{about['weights']}"
    data = store.get(name)
    if data is None:
        raise FileNotFoundError(name)  # replaced by a newer one meanwhile
    if hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise store.damaged(name, "it does not match its checksum")
    return about, data
