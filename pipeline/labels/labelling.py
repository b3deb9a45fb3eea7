"""Label: stored vectors and a label set's vectors in, one labels part per embeddings part out.

What was asked (label set, encoder, method, bars) makes a label run; its parts lie in a folder of
their own, so that a new label set never mixes with an old one, and `labels/current.json` turns
to it only when it is whole.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.arrays import Halves, Ints
from pipeline.errors import InputError
from pipeline.identity import EncoderIdentity
from pipeline.label_set import LabelSet, LabelVectors
from pipeline.labels.confidence import held_calibration, mark, with_confidence
from pipeline.labels.provenance import CURRENT, record
from pipeline.labels.question import LabelRun, Question
from pipeline.labels.refinement import METHODS, Method
from pipeline.labels.refining import Neighbourhood, Refiner
from pipeline.labels.rows import label_rows
from pipeline.labels.scoring import scorer
from pipeline.labels.streaming import stream_parts
from pipeline.parts import marked, uncovered
from pipeline.repair import delete_orphans, orphans, record_lost
from pipeline.store import Store
from pipeline.tables import LABELS

logger = logging.getLogger(__name__)

_SMALLER = "of_smaller_store"  # key: the table that answered this question before
_BLOCK_BYTES = 1 << 20  # of scores at a time: every pass over them finds them in a core's cache
_BLOCK_ROWS = 256  # at least, or a large label set is fetched from memory for few images


@dataclass(frozen=True)
class LabelSummary:
    """What one labelling pass did."""

    table: str
    labelled: int  # images given a row by this pass
    abstained: int  # among them
    flipped: int  # among them: refinement changed the likeliest class


def label(
    store: Store,
    question: Question,
    vectors: LabelVectors,
    *,
    near: Neighbourhood | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> LabelSummary:
    """Label every part of `embeddings` that this label run has not labelled yet.

    Args:
        store: the store to read from and write to.
        question: what is asked.
        vectors: the text vectors of its label set.
        near: the images of the store, where the question is to be answered with their help.
        on_progress: told how many images were labelled since it was last told.

    Raises:
        InputError: the store has no embeddings yet, or scores of this kind cannot be refined so.
        DamagedFileError: a part is not as it was written.
        ValueError: a vector is not of unit length, or `near` is missing.
    """
    identity = store.identity()
    if identity is None:
        raise InputError(f"{store.location}: holds no embeddings yet; `pseudolabel run` makes them")
    if (near is None) != (question.refine == "none"):
        raise ValueError(f"refine is {question.refine!r}, but the store's images are not as needed")
    table = question.table_for(identity, len(near) if near is not None else 0)
    parts = missing_parts(store, table)
    written = []
    if parts:
        labeller = _Labeller(question, vectors, identity, near)
        held = held_calibration(store, table)
        calibration = held.calibration if held else None

        def write(part: str, tables: list[pa.Table]) -> tuple[int, int, int]:
            rows = pa.concat_tables([LABELS.empty_table(), *tables])
            if calibration:
                bar = question.abstain_below
                rows = with_confidence(rows, calibration, question.label_set, bar).cast(LABELS)
            made_of = marked(store.fingerprint("embeddings", part) or "", mark(calibration))
            store.write_part(table, part, rows, made_of)
            return len(rows), rows["label"].null_count, pc.sum(rows["flipped"]).as_py() or 0

        written = stream_parts(store, parts, labeller.rows, write, on_progress)
    _turn_to(store, LabelRun(**vars(question), table=table))
    labelled, abstained, flipped = (sum(counts) for counts in zip((0, 0, 0), *written, strict=True))
    return LabelSummary(table=table, labelled=labelled, abstained=abstained, flipped=flipped)


def labels_by_method(
    question: Question,
    vectors: LabelVectors,
    identity: EncoderIdentity,
    near: Neighbourhood,
    ids: Sequence[str],
) -> dict[Method, Ints]:
    """Return, for each way to refine, the likeliest class of some images by number.

    Args:
        question: what is asked; its own way does not matter.
        vectors: the text vectors of its label set.
        identity: of the encoder.
        near: the images of the store.
        ids: n of them.
    """
    several = question.label_set.multi_label
    score = scorer(vectors, identity, multi_label=several)
    images = near.vectors(near.rows_of(ids))
    naive = score(images)
    found: dict[Method, Ints] = {"none": naive.classes.argmax(axis=1)}
    for method in METHODS:
        if not (method == "anchored" and score.independent):
            refine = Refiner(method, score, near, question.label_set.shares)
            found[method] = refine(ids, images, naive).classes.argmax(axis=1)
    return found


class _Labeller:
    """A question, asked of a batch of vectors."""

    def __init__(
        self,
        question: Question,
        vectors: LabelVectors,
        identity: EncoderIdentity,
        near: Neighbourhood | None,
    ) -> None:
        self._question = question
        self._score = scorer(
            vectors,
            identity,
            unknown=question.unknown,
            multi_label=question.label_set.multi_label,
        )
        self._refine = None
        if near is not None:
            shares = question.label_set.shares
            self._refine = Refiner(question.refine, self._score, near, shares)
        self._block = max(_BLOCK_ROWS, _BLOCK_BYTES // (4 * self._score.width))

    def rows(self, ids: pa.Array, vectors: Halves) -> pa.Table:
        """Label (n, D) vectors; return rows of `tables.LABELS`."""
        tables = [LABELS.empty_table()]
        for at in range(0, len(vectors), self._block):
            images = vectors[at : at + self._block].astype(np.float32)
            theirs = ids[at : at + self._block]
            refined = naive = self._score(images)
            if self._refine is not None:
                refined = self._refine(theirs.to_pylist(), images, naive)
            rows = label_rows(theirs, naive, refined, self._question.label_set, self._question)
            tables.append(rows)
        return pa.concat_tables(tables)


def missing_parts(store: Store, table: str) -> list[str]:
    """Return the parts of `embeddings` that a label run has not labelled."""
    return uncovered(store.parts("embeddings"), store.parts(table))


def current_table(store: Store) -> str | None:
    """Return the table of the label run in force; None before the first."""
    table = store.get_json(CURRENT).get("table")
    return None if table is None else str(table)


def current_labels(store: Store) -> LabelRun:
    """Return the label run in force.

    Raises:
        InputError: the store has no labels yet.
    """
    run = store.get_json(CURRENT)
    if not run:
        raise InputError(f"{store.location}: holds no labels yet; `pseudolabel run` makes them")
    run.pop(_SMALLER, None)
    return LabelRun(**{**run, "label_set": LabelSet.model_validate(run["label_set"])})  # type: ignore[arg-type]


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
    """Put a label run in force; clear away what its like of a smaller store had superseded."""
    content = run.as_json()
    before, now = store.get_json(CURRENT), datetime.now(UTC)
    smaller = str(before.pop(_SMALLER, ""))
    turned = before != content
    if before and turned:  # else nobody would know any more what it was asked
        record(store, before, turned=False, now=now)
    record(store, content, turned=turned, now=now)
    if not turned:
        return
    if {**before, "table": run.table} == content:
        # Readers may still be at the last one; the one before it has nobody left.
        _delete_table(store, smaller)
        content[_SMALLER] = before["table"]
    store.put_json(CURRENT, content)


def _delete_table(store: Store, table: str) -> None:
    for name in store.folder.names(table) if table else []:
        store.delete(f"{table}/{name}")
