"""History: the images of a drop and those before it, as `drift` compares them.

Labels are columns of a few bytes an image, read whole. Vectors are not: a sample of them is kept
(`cache/drift-sample.npz`), and each part of `embeddings` is read once for it, when it is new.

The sample holds the images whose ids, which are hashes, begin below a bar; the bar is halved
whenever there are too many. So it is drawn evenly from all images, in whatever order they came
(Gibbons, Distinct sampling, 2001).
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays import Floats, Halves
from pipeline.caching import cached_arrays, keep_arrays
from pipeline.parts import span, uncovered
from pipeline.reports.arrivals import Arrivals
from pipeline.reports.drift import Sample
from pipeline.store import Store
from pipeline.vectors import stream_vectors

SAMPLE = "cache/drift-sample.npz"
KEPT = 2000  # vectors, at most; at least half of it where there are as many
COMPARED = 1000  # vectors of either side
_DIGITS = 8  # of an id, that are held against the bar


@dataclass(frozen=True)
class _Kept:
    """Some vectors of the store, drawn evenly."""

    parts: list[str]  # of `embeddings`, that were looked through
    halvings: int  # of the bar
    ids: list[str]
    vectors: Halves  # (m, D)


def label_rows(store: Store, table: str) -> pl.DataFrame:
    """Return image_id, label_index, confidence, calibrated and unknown_score of a label run."""
    wanted = ["image_id", "label_index", "confidence", "calibrated", "unknown_score"]
    return store.read(table, wanted).unique("image_id", maintain_order=True)  # sums to the last bit


def samples(
    store: Store,
    rows: pl.DataFrame,
    classes: int,
    run_id: str,
    arrived: Arrivals,
    *,
    keep: bool,
) -> tuple[Sample, Sample]:
    """Return the images of a drop and those before it.

    Args:
        store: the store.
        rows: as `label_rows` returns them, of all images.
        classes: of the label set.
        run_id: the run.
        arrived: what it saw.
        keep: whether the sample of vectors may be written; the store's lock must be held then.
    """
    own = pl.col("image_id").is_in(pl.Series(arrived.images, dtype=pl.String).implode())
    after = pl.col("image_id").is_in(pl.Series(arrived.later, dtype=pl.String).implode())
    drop, before = rows.filter(own), rows.filter(~own & ~after)
    kept = _vector_sample(store, keep=keep)
    held = set(before["image_id"].to_list()) if len(kept.ids) else set()
    places = [i for i, image_id in enumerate(kept.ids) if image_id in held][:COMPARED]
    return (
        _sample(drop, classes, vectors_of(store, arrived.images[:COMPARED], run_id)),
        _sample(before, classes, kept.vectors[places].astype(np.float32)),
    )


def parts_of_run(store: Store, table: str, run_id: str) -> list[str]:
    """Return the parts that hold what a run wrote, merged with others' or not."""
    found = []
    for part in store.parts(table):
        first, last = (name.split("-")[0] for name in span(part))
        if first <= run_id <= last:
            found.append(part)
    return found


def vectors_of(store: Store, ids: Collection[str], run_id: str) -> Floats:
    """Return (m, D) vectors of those images among `ids` that a run embedded."""
    wanted = pa.array(ids, pa.string())
    found = [np.empty((0, _dimension(store)), np.float16)]
    for part in parts_of_run(store, "embeddings", run_id) if ids else ():
        found.append(_pick(store, part, partial(pc.is_in, value_set=wanted))[1])  # noqa: PERF401
    return np.concatenate(found).astype(np.float32)


def _sample(rows: pl.DataFrame, classes: int, vectors: Floats) -> Sample:
    index = rows["label_index"].to_numpy().astype(np.int64)
    labels = np.bincount(np.where(index < 0, classes, index), minlength=classes + 1)
    columns = (rows[name].to_numpy().astype(np.float32) for name in ("confidence", "unknown_score"))
    confidence, unknown = columns
    return Sample(labels.astype(np.int64), confidence, unknown, vectors)


def _vector_sample(store: Store, *, keep: bool) -> _Kept:
    """Return vectors drawn evenly from all images, those that lie in new parts among them."""
    kept = _cached(store)
    new = uncovered(store.parts("embeddings"), kept.parts)
    if not new:
        return kept
    ids, vectors, halvings = list(kept.ids), [kept.vectors], kept.halvings
    for part in new:
        more, theirs = _pick(store, part, partial(_below, _bar(halvings)))
        ids, vectors = ids + more, [*vectors, theirs]
        while len(ids) > KEPT:
            halvings += 1
            bar = _bar(halvings)
            stay = np.array([image_id[:_DIGITS] < bar for image_id in ids])
            ids = [image_id for image_id, stays in zip(ids, stay, strict=True) if stays]
            vectors = [np.concatenate(vectors)[stay]]
    together = np.concatenate(vectors)
    _, first = np.unique(np.array(ids, dtype=np.str_), return_index=True)  # sorted; no id twice
    made = _Kept(store.parts("embeddings"), halvings, [ids[i] for i in first], together[first])
    if keep:
        keep_arrays(
            store,
            SAMPLE,
            parts=np.array(made.parts, np.str_),
            halvings=np.array(made.halvings),
            ids=np.array(made.ids, np.str_),
            vectors=made.vectors,
        )
    return made


def _cached(store: Store) -> _Kept:
    held, dimension = cached_arrays(store, SAMPLE), _dimension(store)
    if held is None or set(held) != {"parts", "halvings", "ids", "vectors"}:
        return _Kept([], 0, [], np.empty((0, dimension), np.float16))
    return _Kept(
        held["parts"].tolist(), int(held["halvings"]), held["ids"].tolist(), held["vectors"]
    )


def _dimension(store: Store) -> int:
    identity = store.identity()
    return identity.dimension if identity else 0


def _bar(halvings: int) -> str:
    """Return what ids must begin below; the bar of none is above all of them."""
    return "g" if not halvings else f"{16**_DIGITS >> halvings:0{_DIGITS}x}"


def _below(bar: str, ids: pa.Array) -> pa.Array:
    return pc.less(pc.utf8_slice_codeunits(ids, 0, _DIGITS), bar)


def _pick(
    store: Store, part: str, which: Callable[[pa.Array], pa.Array]
) -> tuple[list[str], Halves]:
    """Return ids and vectors of a part, of the images that are wanted, reading it bit by bit."""

    def take(batches: Iterator[tuple[pa.Array, Halves]]) -> tuple[list[str], Halves]:
        ids: list[str] = []
        vectors = [np.empty((0, _dimension(store)), np.float16)]
        for these, theirs in batches:
            mask = which(these).to_numpy(zero_copy_only=False)
            ids += these.filter(pa.array(mask)).to_pylist()
            vectors.append(theirs[mask])
        return ids, np.concatenate(vectors)

    return stream_vectors(store, part, take)
