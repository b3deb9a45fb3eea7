"""Segments: rows of an index that are kept together and never change once they are written.

A drop adds a segment of its own. The last ones are merged while they are of like size, so that
there are few of them and a row is rewritten some log2(N) times in all; none grows beyond
`MOST_BYTES`, which is what merging and writing hold in memory.
A segment is two files that share a name made of their content: the vectors and their image ids.
Shapes: n rows of a segment, D embedding dimensions.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO

import faiss
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.arrays import Halves
from pipeline.search.files import map_checked, read_faiss
from pipeline.store import Store

MOST_BYTES = 128 << 20  # of vectors
_KINDS = ("faiss", "parquet")


@dataclass(frozen=True)
class Held:
    """A segment as the pointer names it."""

    name: str
    rows: int
    faiss: str  # SHA-256 of the vectors' file
    parquet: str  # and of the ids'

    def files(self) -> dict[str, str]:
        """Return the segment's files and the SHA-256 that each was written with."""
        return {f"index/{self.name}.{kind}": getattr(self, kind) for kind in _KINDS}


@dataclass(frozen=True)
class Segment:
    """Rows in half precision, as they are stored."""

    named: pl.Series | pa.Buffer  # image ids (n,), or the file that they are in
    index: faiss.IndexScalarQuantizer
    held: Held | None = None  # null: in memory alone

    def __len__(self) -> int:
        """Return n."""
        return int(self.index.ntotal)

    @cached_property
    def ids(self) -> pl.Series:
        """The image ids (n,), in memory from now on."""
        return self.read_ids()

    def read_ids(self) -> pl.Series:
        """Return the image ids (n,), in memory as long as they are in use."""
        if isinstance(self.named, pl.Series):
            return self.named
        return pl.read_parquet(pa.BufferReader(self.named))["image_id"]

    @property
    def codes(self) -> npt.NDArray[np.uint8]:
        """The rows' bytes (n, 2 D): a view, valid as long as the segment is."""
        flat = faiss.rev_swig_ptr(self.index.codes.data(), len(self) * self.index.code_size)
        codes: npt.NDArray[np.uint8] = flat.reshape(len(self), self.index.code_size)
        return codes


def segment_of(ids: Sequence[str] | pl.Series, vectors: Halves) -> Segment:
    """Return a segment in memory of vectors (n, D)."""
    index = _empty(vectors.shape[1])
    if len(vectors):
        index.add_sa_codes(np.ascontiguousarray(vectors).view(np.uint8))
    return Segment(pl.Series("image_id", ids, pl.String), index)


def merged(segments: Sequence[Segment]) -> list[Segment]:
    """Return segments, oldest first, with the last ones merged while they are of like size."""
    left = list(segments)
    while len(left) > 1 and _alike(left[-2], left[-1]):
        last = left.pop()
        left[-1] = _joined([left[-1], last])
    return left


def write_segment(store: Store, segment: Segment) -> Held:
    """Write a segment's files; of the same content they have the same name."""
    if segment.held is not None:
        return segment.held
    buffer = BytesIO()
    segment.ids.to_frame("image_id").write_parquet(buffer)
    contents = [faiss.serialize_index(segment.index).data, buffer.getbuffer()]
    checksums = [hashlib.sha256(content).hexdigest() for content in contents]
    name = hashlib.sha256("".join(checksums).encode()).hexdigest()[:16]
    held = Held(name, len(segment), *checksums)
    for file, content in zip(held.files(), contents, strict=True):
        store.put(file, content)
    return held


def read_segment(store: Store, held: Held) -> Segment:
    """Read a segment; on this machine its files are mapped, not read into memory.

    Raises:
        DamagedFileError: a file is not as it was written.
        FileNotFoundError: a file is not there, or not any more.
    """
    (vectors, checksum), (ids, checksum_of_ids) = held.files().items()
    index = read_faiss(store, vectors, checksum)
    named = map_checked(store, ids, checksum_of_ids)
    rows = pq.read_metadata(pa.BufferReader(named)).num_rows
    if not isinstance(index, faiss.IndexScalarQuantizer) or index.ntotal != rows:
        raise store.damaged(vectors, "it does not go with its image ids")
    return Segment(named, index, held)


def _alike(one: Segment, other: Segment) -> bool:
    together = (len(one) + len(other)) * one.index.code_size
    return len(one) <= 2 * len(other) and together <= MOST_BYTES


def _joined(segments: Sequence[Segment]) -> Segment:
    index = _empty(segments[0].index.d)
    for segment in segments:
        if len(segment):
            index.add_sa_codes(segment.codes)
    return Segment(pl.concat([segment.ids for segment in segments]), index)


def _empty(dimension: int) -> faiss.IndexScalarQuantizer:
    kind, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    return faiss.IndexScalarQuantizer(dimension, kind, metric)
