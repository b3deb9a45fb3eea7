"""Confidence: the calibration kept beside a label run, and what it makes of the run's rows.

Every part says in its fingerprint by which calibration its confidences were made, so that a
rewriting that was interrupted goes on where it ended.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.identity import digest
from pipeline.label_set import LabelSet
from pipeline.labels.calibration import Calibration, from_json
from pipeline.parts import marked
from pipeline.store import Store

_FILE = "calibration.json"


@dataclass(frozen=True)
class Held:
    """What is kept beside a label run."""

    calibration: Calibration | None  # None: too few answers
    answers: str  # the state of the answers it was fitted to
    applied: bool  # to every part


def held_calibration(store: Store, table: str) -> Held | None:
    """Return what is kept beside a label run; None: nothing was ever audited.

    Raises:
        DamagedFileError: it is not as it was written.
    """
    kept = store.get_json(f"{table}/{_FILE}")
    if not kept:
        return None
    fitted = kept["calibration"]
    return Held(from_json(fitted) if fitted else None, str(kept["answers"]), bool(kept["applied"]))


def keep_calibration(store: Store, table: str, held: Held) -> None:
    """Keep a calibration beside a label run; the store's lock must be held."""
    content: dict[str, object] = {
        "calibration": held.calibration.as_json() if held.calibration else None,
        "answers": held.answers,
        "applied": held.applied,
    }
    store.put_json(f"{table}/{_FILE}", content)


def mark(calibration: Calibration | None) -> str:
    """Return what stands for a calibration in the fingerprint of a part; empty for none."""
    return digest(calibration.as_json()) if calibration else ""


def calibration_state(store: Store, table: str) -> str:
    """Return what stands for the calibration of a label run; empty when it has none."""
    held = held_calibration(store, table)
    return mark(held.calibration) if held else ""


def with_confidence(
    rows: pa.Table, calibration: Calibration | None, label_set: LabelSet, abstain_below: float
) -> pa.Table:
    """Return rows of `tables.LABELS` with confidences, and labels by them.

    The bar holds against the confidence. A row that abstained for another reason than the bar, such
    as a reject prompt, still does.

    Args:
        rows: of a label run, calibrated or not.
        calibration: None: the score is the confidence again.
        label_set: the run's classes.
        abstain_below: the run's bar, 0 to 1.
    """
    scores = rows["score"].to_numpy()
    confidence = calibration(scores) if calibration else scores
    word = "confidence" if calibration else "score"
    weak = pa.array(confidence < np.float32(abstain_below))
    reason = rows["reason"]
    by_bar = pc.starts_with(reason, "score below ")
    by_bar = pc.or_(by_bar, pc.starts_with(reason, "confidence below "))
    ours = pc.fill_null(by_bar, True)  # no reason: it is labelled
    top = pc.list_element(rows["topk_labels"], 0)
    none = pa.scalar(None, pa.string())
    label = pc.if_else(ours, pc.if_else(weak, none, top), rows["label"])
    told = pa.scalar(f"{word} below {abstain_below:g}", pa.string())
    changed = {
        "label": label,
        "label_index": pc.fill_null(pc.index_in(label, pa.array(label_set.names)), -1),
        "confidence": pa.array(confidence),
        "calibrated": pa.array(np.full(len(rows), calibration is not None)),
        "reason": pc.if_else(ours, pc.if_else(weak, told, none), reason),
    }
    for name, column in changed.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def rewrite(
    store: Store,
    table: str,
    calibration: Calibration | None,
    label_set: LabelSet,
    abstain_below: float,
    on_progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Give the confidences of a calibration to each part of a label run that has not got them.

    One part is in memory at a time, and each is replaced at once.

    Args:
        store: the store; its lock must be held.
        table: of the label run.
        calibration: None: the scores are the confidences again.
        label_set: the run's classes.
        abstain_below: the run's bar.
        on_progress: told how many images were rewritten since it was last told.
    """
    for part in store.parts(table):
        held = store.fingerprint(table, part) or ""
        wanted = marked(held, mark(calibration))
        if held != wanted:
            rows = store.read_part(table, part)
            new = with_confidence(rows, calibration, label_set, abstain_below)
            store.write_part(table, part, new.cast(rows.schema), wanted)
            on_progress(len(rows))
