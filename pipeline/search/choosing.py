"""Choosing an index by size and memory: exact while it fits, then the best that does.

Shapes: N vectors, D embedding dimensions.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["flat", "hnsw", "ivf-sq8", "ivf-pq"]

LINKS = 32  # of a vector in the graph, each way
SAMPLE_BYTES = 256 << 20  # of vectors to train on
FEWEST = 256  # vectors: a code book of one byte has as many entries
_PER_CELL = 39  # vectors to train on that k-means wants for each
_ID_BYTES = 8
# Twice the links of 4 bytes on the ground, some 4 bytes of them above, an offset and a level.
_GRAPH_BYTES = 2 * 4 * LINKS + 4 * LINKS // (LINKS - 1) + 8 + 4


@dataclass(frozen=True)
class IndexSettings:
    """What a user asks of the index."""

    kind: Literal["auto", "flat", "hnsw", "ivf-sq8", "ivf-pq"] = "auto"
    memory_mb: int = 1024  # of 2^20 bytes, that it may take
    recall: float = 0.95  # at 10, of an approximate one; above 0, at most 1


DEFAULTS = IndexSettings()


@dataclass(frozen=True)
class Choice:
    """The index to build, and why this one."""

    kind: Kind
    code_bytes: int  # per vector
    bytes: int  # of memory
    reason: str


def choose(rows: int, vectors: int, dimension: int, settings: IndexSettings) -> Choice:
    """Choose the first that fits of: exact, a graph, cells in bytes, cells in product codes.

    Args:
        rows: of the exact index, those of images that are gone among them.
        vectors: N, those that an approximate one would hold.
        dimension: D.
        settings: the kind asked for, or `auto`, and the memory.
    """
    budget = settings.memory_mb << 20
    fitting = [
        (kind, code)
        for kind, code in _candidates(dimension)
        if settings.kind in ("auto", kind) and index_bytes(kind, code, vectors, dimension) <= budget
    ]
    exact = index_bytes("flat", 2 * dimension, rows, dimension)
    why = "asked for"
    if settings.kind == "flat":
        return _choice("flat", 2 * dimension, rows, dimension, settings, why)
    if settings.kind == "auto":
        if exact <= budget:
            return _choice("flat", 2 * dimension, rows, dimension, settings, "it fits")
        why = f"exact would take {_mb(exact)}"
    if vectors < FEWEST:
        why = f"fewer than {FEWEST} vectors need no other"
        return _choice("flat", 2 * dimension, rows, dimension, settings, why)
    if fitting:
        return _choice(*fitting[0], vectors, dimension, settings, why)
    same = [c for c in _candidates(dimension) if settings.kind in ("auto", c[0])]
    return _choice(*same[-1], vectors, dimension, settings, f"{why}, and no smaller one is there")


def index_bytes(kind: Kind, code_bytes: int, vectors: int, dimension: int) -> int:
    """Return the memory that an index takes."""
    if kind == "flat":
        return vectors * code_bytes
    if kind == "hnsw":
        return vectors * (code_bytes + _GRAPH_BYTES + _ID_BYTES)
    tables = cells(vectors, dimension) + (256 if kind == "ivf-pq" else 0)
    return vectors * (code_bytes + _ID_BYTES) + tables * 4 * dimension


def cells(vectors: int, dimension: int) -> int:
    """Return how many cells to divide vectors into."""
    return max(1, min(int(4 * vectors**0.5), sample_rows(vectors, dimension) // _PER_CELL))


def sample_rows(vectors: int, dimension: int) -> int:
    """Return how many vectors to train on."""
    return min(vectors, SAMPLE_BYTES // (4 * dimension))


def _candidates(dimension: int) -> list[tuple[Kind, int]]:
    """Return what may be built, and the bytes of its codes: the more faithful first."""
    pieces = [m for m in range(dimension // 2, 0, -1) if dimension % m == 0]
    found: list[tuple[Kind, int]] = [("hnsw", dimension), ("ivf-sq8", dimension)]
    return found + [("ivf-pq", m) for m in pieces or [1]]


def _choice(
    kind: Kind, code_bytes: int, vectors: int, dimension: int, settings: IndexSettings, why: str
) -> Choice:
    size = index_bytes(kind, code_bytes, vectors, dimension)
    reason = (
        f"{vectors:,} vectors of {dimension} as {kind} take {_mb(size)} "
        f"of index.memory_mb {settings.memory_mb:,}: {why}"
    )
    return Choice(kind, code_bytes, size, reason)


def _mb(size: int) -> str:
    return f"{size / 2**20:,.1f} MB"
