"""A trained head on disk: safetensors for the weights, JSON for all that is needed to use them."""

import hashlib
from dataclasses import dataclass

import safetensors.torch

from pipeline.errors import InputError
from pipeline.store import Store
from pipeline.training.freshness import FOLDER, HEAD_JSON
from pipeline.training.heads.mlp import MultimodalMLP
from pipeline.training.side.encoding import SideEncoding


@dataclass(frozen=True)
class SavedHead:
    """A head and what it was made for."""

    head: MultimodalMLP
    classes: list[str]  # the label of each output, in order
    side: SideEncoding  # of what it sees beside the image
    about: dict[str, object]  # the whole of head.json


def save_head(store: Store, head: MultimodalMLP, about: dict[str, object], fingerprint: str) -> str:
    """Save a head; the JSON names its weights file, so the two never disagree.

    Returns:
        The path of the JSON, relative to the store.
    """
    old = store.get_json(HEAD_JSON).get("weights")
    weights = f"head-{fingerprint}.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in head.state_dict().items()}
    data = safetensors.torch.save(tensors)
    checksum = hashlib.sha256(data).hexdigest()
    content = {"weights": weights, "sha256": checksum, "fingerprint": fingerprint, **about}
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
    classes, sizes, side = about["classes"], about["sizes"], about["side"]
    assert isinstance(classes, list) and isinstance(sizes, dict) and isinstance(side, dict)
    head = MultimodalMLP(classes=len(classes), dropout=0.0, **sizes)
    head.load_state_dict(safetensors.torch.load(data))
    head.eval()
    return SavedHead(head, [str(name) for name in classes], SideEncoding.from_json(side), about)


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
