"""Labels that a head gives: a label run like any other, beside those of the texts.

Shapes: n images of a part, D embedding dimensions, S side dimensions, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.arrays import Floats
from pipeline.catalog import present_images
from pipeline.identity import EncoderIdentity, digest
from pipeline.label_set import LabelVectors
from pipeline.labels.labelling import missing_parts
from pipeline.labels.provenance import record
from pipeline.labels.question import LabelRun, Question
from pipeline.labels.rows import label_rows
from pipeline.labels.scoring import Scores, scorer
from pipeline.store import Store
from pipeline.vectors import read_vectors

# (image_id and path of n images, their vectors (n, D)) -> probabilities (n, C)
Answer = Callable[[pl.DataFrame, Floats], Floats]


@dataclass(frozen=True)
class HeadLabels:
    """What one pass of a head over a store did."""

    table: str
    labelled: int  # images given a row by this pass


def label_by_head(
    store: Store,
    question: Question,
    vectors: LabelVectors,
    answer: Answer,
    *,
    source: str,
    made_of: str,
    learnt_until: str | None,
    now: datetime,
    on_progress: Callable[[int], None] = lambda _: None,
) -> HeadLabels:
    """Write a label run of a head's answers, for the parts that it has not answered for yet.

    The run does not come into force. What is unknown, and what a reject prompt beats, is told as by
    the texts; the text classifier's own label stands beside the head's as the naive one.

    Args:
        store: the store; its lock must be held.
        question: the label set the head was trained for, and what is too little to be labelled.
        vectors: the text vectors of the label set.
        answer: the head.
        source: where the labels come from, such as head:linear.
        made_of: fingerprint of the head.
        learnt_until: it has learnt from audit answers up to then, as `answers.answered_until` says.
        now: the present, with time zone.
        on_progress: told how many images were labelled since it was last told.
    """
    identity = store.identity()
    assert identity is not None  # a head was trained on its vectors
    table = head_table(question, identity, source, made_of)
    score = scorer(
        vectors,
        identity,
        unknown=question.unknown,
        multi_label=question.label_set.multi_label,
    )
    paths = present_images(store).select("image_id", "path")
    labelled = 0
    for part in missing_parts(store, table):
        ids, halves = read_vectors(store, part)
        images = pl.DataFrame({"image_id": ids}).join(
            paths, on="image_id", how="left", maintain_order="left"
        )
        wide = halves.astype(np.float32)
        naive = score(wide)
        said = answer(images.with_columns(pl.col("path").fill_null("")), wide)
        theirs = _beside(said, naive, independent=score.independent)
        rows = label_rows(pa.array(ids, pa.string()), naive, theirs, question.label_set, question)
        store.write_part(table, part, rows, store.fingerprint("embeddings", part) or "")
        labelled += len(rows)
        on_progress(len(rows))
    run = LabelRun(**vars(question), table=table, source=source, learnt_until=learnt_until)
    record(store, run.as_json(), turned=False, now=now)
    return HeadLabels(table, labelled)


def _beside(said: Floats, naive: Scores, *, independent: bool) -> Scores:
    """Return a head's probabilities (n, C) with what it knows nothing of: rejecting, the unknown.

    It was taught to choose between classes. So they share what the reject prompts leave of a
    softmax; where every class is a question of its own, a prompt beats the head if it beats the
    texts.
    """
    if not independent:
        left = 1.0 - naive.rejects.sum(axis=1, keepdims=True)
        return Scores((said * left).astype(np.float32), naive.rejects, naive.unknown)
    beaten = naive.rejects.max(axis=1, initial=0.0) > naive.classes.max(axis=1)
    rejects = np.where(beaten[:, None], 1.0 + naive.rejects, 0.0).astype(np.float32)
    return Scores(said, rejects, naive.unknown)


def head_table(question: Question, identity: EncoderIdentity, source: str, made_of: str) -> str:
    """Return the name of the table that holds a head's answers to a question."""
    asked = question.table_for(identity)
    return f"labels/{question.label_set.name}/{digest([asked, source, made_of])[:12]}"
