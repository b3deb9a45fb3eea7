"""Findings: what the answers say of the labels in force, as numbers."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from pipeline.arrays import Floats
from pipeline.labels.answers import CANNOT, NONE, last_rows
from pipeline.labels.audit import Evidence, calibrate, gather
from pipeline.labels.calibration import BINS, Calibration, calibration_error
from pipeline.labels.certify import Accuracy, Certificate, accuracy, certify
from pipeline.labels.labelling import current_labels
from pipeline.store import Store

TARGETS = (0.9, 0.95, 0.99)
KNOWN = 0.95  # of the images below a threshold of unknown_score are to show one of the classes
_BIN_ANSWERS = 20  # at least


@dataclass(frozen=True)
class Region:
    """A region of the images for one precision."""

    target: float
    expected_coverage: float | None  # by the confidences themselves; None: not calibrated
    certificate: Certificate  # proven by the answers
    min_confidence: float | None  # what select.min_confidence must be for the certified region


@dataclass(frozen=True)
class Findings:
    """What an audit found out about the labels in force."""

    table: str
    answers: int  # that count: a label, or none of these
    none_of_these: int  # among them
    cannot_tell: int  # not counted
    learnt: int  # not counted: the head that gave these labels has learnt from them
    unanswered: int  # drawn, and not answered yet
    images: int  # that the estimates hold for
    unaudited: int  # images that came after the last round: they do not hold for these
    accuracy: Accuracy | None  # None: no answer yet
    method: str | None  # platt or isotonic; None: too few answers to calibrate
    calibration: Calibration | None
    platt_loss: float | None  # log loss in nats by cross-validation
    isotonic_loss: float | None  # None: too few answers to try
    bins: int  # of equal numbers of answers, for the next three
    ece_before: float | None  # calibration error of the score
    ece_after: float | None  # of the confidence, by cross-validation
    ece_by_chance: float | None  # what a perfect confidence would show with so few answers
    regions: list[Region]
    known: Certificate | None  # of the images with the least unknown_score; None: no answer yet


def find(store: Store) -> Findings:
    """Say what the answers tell of the labels in force.

    Raises:
        InputError: there are no labels yet.
    """
    run = current_labels(store)
    rows = last_rows(store, run.label_set)
    evidence = gather(store, run)
    counts = dict(rows["answer"].fill_null("").value_counts().iter_rows())
    fitted = calibrate(evidence)
    bins = max(1, min(BINS, len(evidence.ids) // _BIN_ANSWERS))
    before = after = chance = None
    if fitted:
        given = (evidence.right, evidence.weights, bins)
        before, _ = calibration_error(evidence.scores, *given)
        after, chance = calibration_error(fitted.held_out, *given)
    calibration = fitted.calibration if fitted else None
    some = len(evidence.ids) > 0
    none = rows.filter(pl.col("image_id").is_in(evidence.ids) & (pl.col("answer") == NONE))
    return Findings(
        table=run.table,
        answers=len(evidence.ids),
        none_of_these=len(none),
        cannot_tell=counts.get(CANNOT, 0),
        learnt=evidence.learnt,
        unanswered=counts.get("", 0),
        images=len(evidence.images),
        unaudited=evidence.unaudited,
        accuracy=accuracy(evidence.right, evidence.weights, len(evidence.images)) if some else None,
        method=calibration.method if calibration else None,
        calibration=calibration,
        platt_loss=fitted.platt_loss if fitted else None,
        isotonic_loss=fitted.isotonic_loss if fitted else None,
        bins=bins,
        ece_before=before,
        ece_after=after,
        ece_by_chance=chance,
        regions=[_region(evidence, calibration, target) for target in TARGETS] if some else [],
        known=_known(evidence) if some else None,
    )


def _known(evidence: Evidence) -> Certificate:
    """Certify the largest region "unknown_score at most t" in which images show a class.

    `certify` is asked for "score at least", hence the signs.
    """
    plain = evidence.representative
    proven = certify(
        -evidence.unknown[plain], evidence.known[plain], -evidence.image_unknown, KNOWN
    )
    return replace(proven, threshold=None if proven.threshold is None else -proven.threshold)


def _region(evidence: Evidence, calibration: Calibration | None, target: float) -> Region:
    plain = evidence.representative
    certificate = certify(evidence.scores[plain], evidence.right[plain], evidence.images, target)
    if calibration is None:
        return Region(target, None, certificate, None)
    bar = None
    if certificate.threshold is not None:
        least = float(calibration(np.array([certificate.threshold], np.float32))[0])
        bar = np.floor(least * 1e8) / 1e8  # as single precision it is that number again
    expected = reachable(calibration(evidence.images), target)
    return Region(target, expected, certificate, None if bar is None else float(bar))


def reachable(confidence: Floats, precision: float) -> float:
    """Return the largest share of images whose mean confidence is at least a precision.

    >>> reachable(np.array([0.5, 1.0, 0.75], np.float32), 0.8)
    0.6666666666666666
    """
    falling = np.sort(confidence.astype(np.float64))[::-1]
    mean = np.cumsum(falling) / np.arange(1, len(falling) + 1)
    # A mean of falling numbers falls.
    return float((mean >= precision).sum() / max(len(falling), 1))
