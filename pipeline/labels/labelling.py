"""Label: stored vectors and a label set's vectors in, one labels part per embeddings part out.

What was asked (label set, encoder, top-k, threshold) makes a label run; its parts lie in a folder
of their own, so that a new label set never mixes with an old one, and `labels/current.json` turns
to it only when it is whole.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa

from pipeline.arrays import Halves
from pipeline.errors import InputError
from pipeline.identity import EncoderIdentity, digest
from pipeline.label_set import LabelSet, LabelVectors
from pipeline.labels.confidence import held_calibration, mark, with_confidence
from pipeline.labels.rows import label_rows
from pipeline.labels.scoring import Scorer, joined, scorer, vote
from pipeline.labels.streaming import stream_parts
from pipeline.parts import marked, uncovered
from pipeline.repair import delete_orphans, orphans, record_lost
from pipeline.store import Store
from pipeline.tables import LABELS

logger = logging.getLogger(__name__)

_CURRENT = "labels/current.json"
_BLOCK_BYTES = 1 << 20  # of scores at a time: every pass over them finds them in a core's cache
_BLOCK_ROWS = 256  # at least, or a large label set is fetched from memory for few images


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
    on_progress: Callable[[int], None] = lambda _: None,
) -> LabelSummary:
    """Label every part of `embeddings` that this label run has not labelled yet.

    Args:
        store: the store to read from and write to.
        label_set: the classes.
        vectors: their text vectors.
        top_k: labels kept per image.
        abstain_below: no label below this confidence (the score, where none is calibrated), 0 to 1.
        on_progress: told how many images were labelled since it was last told.

    Raises:
        InputError: the store has no embeddings yet.
        DamagedFileError: a part is not as it was written.
        ValueError: a vector is not of unit length.
    """
    identity = store.identity()
    if identity is None:
        raise InputError(f"{store.location}: holds no embeddings yet; `pseudolabel run` makes them")
    table = run_table(identity, label_set, top_k=top_k, abstain_below=abstain_below)
    run = LabelRun(table, label_set, top_k, abstain_below)
    labeller = _Labeller(run, scorer(vectors, identity))
    held = held_calibration(store, table)
    calibration = held.calibration if held else None

    def write(part: str, tables: list[pa.Table]) -> tuple[int, int]:
        rows = pa.concat_tables([LABELS.empty_table(), *tables])
        if calibration:
            rows = with_confidence(rows, calibration, label_set, abstain_below).cast(LABELS)
        made_of = store.fingerprint("embeddings", part) or ""
        store.write_part(table, part, rows, marked(made_of, mark(calibration)))
        return len(rows), rows["label"].null_count

    parts = missing_parts(store, table)
    written = stream_parts(store, parts, labeller.rows, write, on_progress)
    _turn_to(store, run)
    return LabelSummary(
        table=table,
        labelled=sum(rows for rows, _ in written),
        abstained=sum(abstained for _, abstained in written),
    )


class _Labeller:
    """A label run's question, asked of a batch of vectors."""

    def __init__(self, run: LabelRun, score: Scorer) -> None:
        self._run, self._score = run, score
        self._block = max(_BLOCK_ROWS, _BLOCK_BYTES // (4 * score.width))

    def rows(self, ids: pa.Array, vectors: Halves) -> pa.Table:
        """Label (n, D) vectors; return rows of `tables.LABELS`."""
        run, votes, unknown = self._run, [], []
        for at in range(0, len(vectors), self._block):
            scores = self._score(vectors[at : at + self._block].astype(np.float32))
            votes.append(vote(scores, top_k=run.top_k, abstain_below=run.abstain_below))
            unknown.append(scores.unknown)
        return label_rows(
            ids,
            joined(votes),
            np.concatenate(unknown),
            run.label_set,
            abstain_below=run.abstain_below,
        )


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


def _turn_to(store: Store, run: LabelRun) -> None:
    content = {
        "table": run.table,
        "label_set": run.label_set.model_dump(mode="json"),
        "top_k": run.top_k,
        "abstain_below": run.abstain_below,
    }
    if store.get_json(_CURRENT) != content:
        store.put_json(_CURRENT, content)
