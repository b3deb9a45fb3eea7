"""A trained head on disk: safetensors for the weights, JSON for all that is needed to use them."""

from dataclasses import dataclass

import safetensors.torch

from pipeline.errors import InputError, StoreError
from pipeline.store import Store
from pipeline.training.freshness import HEAD
from pipeline.training.heads import MultimodalMLP

_FOLDER = f"models/{HEAD}"


@dataclass(frozen=True)
class SavedHead:
    """A head and what it was made for."""

    head: MultimodalMLP
    classes: list[str]  # the label of each output, in order
    side_text: str  # as in config.TrainConfig
    about: dict[str, object]  # the whole of head.json


def save_head(store: Store, head: MultimodalMLP, about: dict[str, object], fingerprint: str) -> str:
    """Save a head; the JSON names its weights file, so the two never disagree.

    Returns:
        The path of the JSON, relative to the store.
    """
    old = store.get_json(f"{_FOLDER}/head.json").get("weights")
    weights = f"head-{fingerprint}.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in head.state_dict().items()}
    store.put(f"{_FOLDER}/{weights}", safetensors.torch.save(tensors))
    content = {"weights": weights, "fingerprint": fingerprint, **about}
    store.put_json(f"{_FOLDER}/head.json", content)
    if old and old != weights:
        (store.root / _FOLDER / str(old)).unlink(missing_ok=True)
    return f"{_FOLDER}/head.json"


def load_head(store: Store) -> SavedHead:
    """Load the trained head.

    Raises:
        InputError: there is none yet.
        StoreError: its files are damaged.
    """
    about = store.get_json(f"{_FOLDER}/head.json")
    if not about:
        raise InputError(f"{store.root}: holds no trained head yet; `pseudolabel train` makes it")
    path = store.root / _FOLDER / str(about["weights"])
    classes, sizes = about["classes"], about["sizes"]
    assert isinstance(classes, list) and isinstance(sizes, dict)
    head = MultimodalMLP(classes=len(classes), dropout=0.0, **sizes)
    try:
        head.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise StoreError(f"{path}: the head cannot be read: {error}; train it again") from error
    head.eval()
    return SavedHead(head, [str(name) for name in classes], str(about["side_text"]), about)
