"""Label: stored vectors and a label set's vectors in, one labels part per embeddings part out.

What was asked (label set, encoder, top-k, threshold) makes a label run; its parts lie in a folder
of their own, so that a new label set never mixes with an old one, and `labels/current.json` turns
to it only when it is whole.
"""

import logging
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa

from pipeline.arrays import Floats
from pipeline.errors import InputError
from pipeline.identity import EncoderIdentity, digest
from pipeline.label_set import LabelSet, LabelVectors
from pipeline.labels.scoring import Votes, score_labels, vote
from pipeline.parts import uncovered
from pipeline.repair import delete_orphans, orphans, record_lost
from pipeline.store import Store
from pipeline.tables import LABELS
from pipeline.vectors import read_vectors

logger = logging.getLogger(__name__)

_CURRENT = "labels/current.json"
_BLOCK_BYTES = 64 << 20  # of scores at a time, so that memory does not grow with the label set


@dataclass(frozen=True)
class LabelSummary:
    """What one labelling pass did."""

    table: str
    labelled: int  # images given a row by this pass
    abstained: int  # among them


@dataclass(frozen=True)
class LabelRun:
    """The labels that are in force."""

    table: str
    label_set: LabelSet
    top_k: int
    abstain_below: float


def label(
    store: Store,
    label_set: LabelSet,
    vectors: LabelVectors,
    *,
    top_k: int,
    abstain_below: float,
) -> LabelSummary:
    """Label every part of `embeddings` that this label run has not labelled yet.

    Args:
        store: the store to read from and write to.
        label_set: the classes.
        vectors: their text vectors.
        top_k: labels kept per image.
        abstain_below: no label below this score, 0 to 1.
    """
    identity = store.identity()
    if identity is None:
        raise InputError(f"{store.location}: holds no embeddings yet; `pseudolabel run` makes them")
    table = run_table(identity, label_set, top_k=top_k, abstain_below=abstain_below)
    run = LabelRun(table, label_set, top_k, abstain_below)
    labelled = abstained = 0
    for part in missing_parts(store, table):
        ids, images = read_vectors(store, part)
        rows = _label_rows(ids, images.astype(np.float32), run, vectors, identity)
        store.write_part(table, part, rows, store.fingerprint("embeddings", part) or "")
        labelled += len(rows)
        abstained += rows["label"].null_count
    _turn_to(store, run)
    return LabelSummary(table=table, labelled=labelled, abstained=abstained)


def run_table(
    identity: EncoderIdentity, label_set: LabelSet, *, top_k: int, abstain_below: float
) -> str:
    """Return the name of the table of a label run: everything that decides its rows is in it."""
    asked = digest([identity.weights, label_set.fingerprint(), top_k, abstain_below])
    return f"labels/{label_set.name}/{asked[:12]}"


def missing_parts(store: Store, table: str) -> list[str]:
    """Return the parts of `embeddings` that a label run has not labelled."""
    return uncovered(store.parts("embeddings"), store.parts(table))


def current_table(store: Store) -> str | None:
    """Return the table of the label run in force; None before the first."""
    table = store.get_json(_CURRENT).get("table")
    return None if table is None else str(table)


def current_labels(store: Store) -> LabelRun:
    """Return the label run in force.

    Raises:
        InputError: the store has no labels yet.
    """
    run = store.get_json(_CURRENT)
    if not run:
        raise InputError(f"{store.location}: holds no labels yet; `pseudolabel run` makes them")
    return LabelRun(
        table=str(run["table"]),
        label_set=LabelSet.model_validate(run["label_set"]),
        top_k=int(str(run["top_k"])),
        abstain_below=float(str(run["abstain_below"])),
    )


def vectors_went(store: Store) -> bool:
    """Tell whether labels are there whose vectors are not: somebody deleted a file by hand."""
    table = current_table(store)
    return table is not None and bool(orphans(store, table))


def recover_vectors(store: Store, *, now: datetime) -> None:
    """Have the files read again whose vectors went.

    Args:
        store: the store; its lock must be held.
        now: the present, with time zone.
    """
    if vectors_went(store):
        lost = record_lost(store, now=now)
        delete_orphans(store)
        logger.warning("the vectors of %d files are gone: the files are read again", lost)


def _label_rows(
    ids: list[str], images: Floats, run: LabelRun, vectors: LabelVectors, identity: EncoderIdentity
) -> pa.Table:
    width = len(vectors.classes) + len(vectors.rejects)
    block = max(256, _BLOCK_BYTES // (4 * width))
    tables = []
    for at in range(0, len(images), block):
        scores = score_labels(images[at : at + block], vectors, identity)
        votes = vote(scores, top_k=run.top_k, abstain_below=run.abstain_below)
        reasons = _reasons(votes, run)
        names = run.label_set.names
        tables.append(_rows(ids[at : at + block], votes, scores.unknown, reasons, names))
    return pa.concat_tables(tables)


def _rows(
    ids: list[str], votes: Votes, unknown: Floats, reasons: list[str | None], names: list[str]
) -> pa.Table:
    vocabulary = pa.array(names)
    label_index = pa.array(votes.label, pa.int32(), mask=votes.label < 0)
    n, k = votes.top_labels.shape
    offsets = pa.array(np.arange(0, n * k + 1, k), pa.int32())
    top_labels = vocabulary.take(pa.array(votes.top_labels.ravel()))
    top_scores = pa.array(votes.top_scores.ravel().astype(np.float32))
    columns = {
        "image_id": ids,
        "label": vocabulary.take(label_index),
        "label_index": votes.label.astype(np.int32),
        "score": votes.score,
        "confidence": votes.score,  # until an audit calibrates it
        "calibrated": np.zeros(n, bool),
        "margin": votes.margin,
        "entropy": votes.entropy,
        "topk_labels": pa.ListArray.from_arrays(offsets, top_labels),
        "topk_scores": pa.ListArray.from_arrays(offsets, top_scores),
        "unknown_score": unknown,
        "reason": pa.array(reasons, pa.string()),
    }
    arrays = [pa.array(column) for column in columns.values()]
    return pa.table(dict(zip(columns, arrays, strict=True))).cast(LABELS)


def _reasons(votes: Votes, run: LabelRun) -> list[str | None]:
    reasons: list[str | None] = []
    for label_index, rejected_by in zip(votes.label, votes.rejected_by, strict=True):
        if rejected_by >= 0:
            reasons.append(f"reject prompt: {run.label_set.reject[rejected_by]}")
        elif label_index < 0:
            reasons.append(f"score below {run.abstain_below:g}")
        else:
            reasons.append(None)
    return reasons


def _turn_to(store: Store, run: LabelRun) -> None:
    content = {
        "table": run.table,
        "label_set": run.label_set.model_dump(mode="json"),
        "top_k": run.top_k,
        "abstain_below": run.abstain_below,
    }
    if store.get_json(_CURRENT) != content:
        store.put_json(_CURRENT, content)
