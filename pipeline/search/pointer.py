"""The pointer, `index/current.json`: which files make up the index in force, and how it is made.

It is written last, so that an index comes into force at once and whole. Files that it does not name
are removed then; who has them mapped keeps them as long as the mapping lasts.
"""

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import DamagedFileError
from pipeline.identity import EncoderIdentity, digest
from pipeline.parts import name_sum
from pipeline.search.choosing import IndexSettings, Kind
from pipeline.search.facts import CURRENT, LAYOUT
from pipeline.search.layered import HeldLayer
from pipeline.search.segments import Held
from pipeline.store import Store


@dataclass(frozen=True)
class Pointer:
    """What an index is made of."""

    name: str  # stands for the vectors in it
    encoder: str  # digest of the encoder that they come of
    parts: list[str]  # of `embeddings`
    vectors: int
    segments: list[Held]
    kind: Kind
    reason: str  # why this kind
    asked: dict[str, object]  # the settings that it was chosen by
    layer: HeldLayer | None = None  # the approximate index, where there is one

    def files(self) -> dict[str, str]:
        """Return the files and the SHA-256 that each was written with."""
        above = {self.layer.file: self.layer.faiss} if self.layer else {}
        return above | {name: check for h in self.segments for name, check in h.files().items()}


def read_pointer(store: Store) -> Pointer | None:
    """Read the pointer; None where there is none, or one of an older layout.

    Raises:
        DamagedFileError: it is not as it was written, or of another encoder.
    """
    content = store.get_json(CURRENT)
    if content.pop("layout", None) != LAYOUT:
        return None
    told: Any = content
    segments = [Held(**held) for held in told.pop("segments")]
    layer = told.pop("layer")
    pointer = Pointer(segments=segments, layer=HeldLayer.of(layer) if layer else None, **told)
    if pointer.encoder != encoder_digest(store.identity()):
        raise store.damaged(CURRENT, "it was built for another encoder")
    return pointer


def write_pointer(store: Store, pointer: Pointer) -> None:
    """Put an index into force and remove the files of the one before."""
    store.put_json(CURRENT, {"layout": LAYOUT, **asdict(pointer)})
    kept = {CURRENT, *pointer.files()}
    for file in store.folder.names("index"):
        if f"index/{file}" not in kept:
            store.delete(f"index/{file}")


def encoder_digest(identity: EncoderIdentity | None) -> str:
    """Return what tells the vectors of one encoder from those of another."""
    if identity is None:
        return ""
    about = asdict(identity)
    del about["architecture"]  # a name for people
    return digest(about)


def is_current(store: Store, settings: IndexSettings | None = None) -> bool:
    """Tell whether the index holds exactly the parts that the store holds, in files still there.

    Args:
        store: the store.
        settings: that it must have been chosen by; None: any.
    """
    try:
        pointer = read_pointer(store)
    except DamagedFileError:
        return False
    parts = store.parts("embeddings")
    if pointer is None:
        return not parts
    if settings is not None and pointer.asked != asdict(settings):
        return False
    there = {f"index/{name}" for name in store.folder.names("index")}
    return set(pointer.files()) <= there and name_sum(pointer.parts) == name_sum(parts)


def indexed(store: Store) -> int:
    """Return how many images the index holds, current or not; 0 where it cannot be told."""
    try:
        pointer = read_pointer(store)
    except DamagedFileError:
        return 0
    return pointer.vectors if pointer else 0


def index_files(store: Store) -> dict[str, str]:
    """Return the files of the index in force and the SHA-256 that each was written with."""
    pointer = read_pointer(store)
    return pointer.files() if pointer else {}
