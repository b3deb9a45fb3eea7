"""A trained head on disk: safetensors for the weights, JSON for all that is needed to use them."""

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
    sizes: tuple[int, int]  # D and S that it takes
    classes: list[str]  # the label of each output, in order
    side_text: str  # as in config.TrainConfig
    about: dict[str, object]  # the whole of head.json


def save_head(store: Store, head: Head, about: dict[str, object], fingerprint: str) -> str:
    """Save a head; the JSON names its weights file, so the two never disagree.

    Returns:
        The path of the JSON, relative to the store.
    """
    old = store.get_json(HEAD_JSON).get("weights")
    weights = f"head-{fingerprint}.safetensors"
    saved = head.save()
    data = safetensors.numpy.save(saved.tensors)
    checksum = hashlib.sha256(data).hexdigest()
    content = {
        "weights": weights,
        "sha256": checksum,
        "fingerprint": fingerprint,
        "kind": head.kind,
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
    classes, sizes, held = about["classes"], about["sizes"], about.get("head")
    if not isinstance(held, dict):
        raise InputError(
            f"{store.location}: its trained head is of an older version; `pseudolabel train` makes "
            "it anew"
        )
    assert isinstance(classes, list) and isinstance(sizes, list)
    head = load_head_of(str(about["kind"]), Saved(held, safetensors.numpy.load(data)))
    names = [str(name) for name in classes]
    return SavedHead(head, (sizes[0], sizes[1]), names, str(about["side_text"]), about)


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
