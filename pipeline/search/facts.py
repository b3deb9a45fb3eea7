"""What the pointer tells of the index in force, for people; nothing heavy is loaded for it."""

from dataclasses import dataclass
from typing import Any

from pipeline.store import Store

CURRENT = "index/current.json"
LAYOUT = 2


@dataclass(frozen=True)
class IndexFacts:
    """The search index in numbers."""

    kind: str  # flat (exact), hnsw, ivf-sq8 or ivf-pq
    vectors: int
    bytes_per_vector: float  # as it is searched; beside an approximate one exact rows are on disk
    recall: float | None  # at 10, of an approximate one
    target: float | None
    reason: str  # why this kind

    def __str__(self) -> str:
        exact = "exact" if self.recall is None else f"recall at 10: {self.recall:.3f}"
        return f"{self.kind}, {exact}, {self.bytes_per_vector:,.0f} bytes a vector"


def index_facts(store: Store) -> IndexFacts | None:
    """Read them; None where there is no index yet, or one of an older layout.

    Raises:
        DamagedFileError: the pointer is not as it was written.
    """
    told: Any = store.get_json(CURRENT)
    if told.get("layout") != LAYOUT:
        return None
    layer, identity = told["layer"], store.identity()
    size = 2.0 * identity.dimension if identity else 0.0
    return IndexFacts(
        kind=told["kind"],
        vectors=told["vectors"],
        bytes_per_vector=layer["bytes"] / max(1, layer["rows"]) if layer else size,
        recall=layer["levels"][0]["recall"] if layer else None,
        target=layer["target"] if layer else None,
        reason=told["reason"],
    )
