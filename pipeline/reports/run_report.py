"""The report of a run: everything that a person is told of it, as numbers and words.

It is told from the store and from what the run kept of itself (`runs/<run>/summary.json`), so that
it can be told again of any run. What cannot be known any more is said in `notes`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from pipeline.arrays import Ints
from pipeline.captions import captions_of
from pipeline.label_set import LabelSet
from pipeline.labels.labelling import current_labels, current_table
from pipeline.reports.arrivals import Arrivals, arrivals
from pipeline.reports.drift import Drift, Sample, compare
from pipeline.reports.examples import (
    ClassExamples,
    Disagreement,
    Example,
    class_examples,
    disagreement,
    drop_labels,
    strangest,
)
from pipeline.reports.history import label_rows, samples
from pipeline.runs import run_time
from pipeline.store import Store

PAGE_CHECK = "page_sha256"  # in report.json beside the page
BINS = 20  # of the histogram
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class ClassLine:
    """One class; shares of all images of the drop, and of those before it."""

    label: str | None  # null: no label
    images: int
    share: float
    share_before: float | None


@dataclass(frozen=True)
class Labelled:
    """What the labels in force say of some images."""

    label_set: str
    multi_label: bool
    word: str  # what `confidence` is: a confidence that an audit has calibrated, or a score
    whose: str  # which images these are
    images: int
    abstained: int
    classes: list[ClassLine]  # largest first
    histogram: list[int]  # images by confidence, in BINS of equal width from 0 to 1
    histogram_before: list[int] | None
    quantiles: dict[str, float]  # of the confidence, by QUANTILES
    mean: float


@dataclass(frozen=True)
class RunReport:
    """All that is told of a run."""

    store: str
    run_id: str
    at: str  # when it began, ISO 8601
    model: str | None
    arrived: Arrivals
    waiting: int | None  # null: not known any more
    labelled: Labelled | None
    drift: Drift
    examples: list[ClassExamples]
    strangest: list[Example]
    disagreement: Disagreement
    captions: dict[str, str]  # of the images shown, by id
    select: Mapping[str, Any] | None
    train: Mapping[str, Any] | None
    not_trained: str | None
    embed: Mapping[str, Any]
    seconds: dict[str, float]
    config: Mapping[str, Any] | None
    notes: list[str]  # what cannot be known any more

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it, without the ids of all images."""
        content = asdict(self)
        for name in ("images", "paths", "later"):
            del content["arrived"][name]
        content["arrived"]["images"] = len(self.arrived.images)
        return content


_UNFINISHED = (
    "The run left no summary, as one that was stopped: what waited, what was trained, how long it "
    "took and by which config is not known any more."
)


def gather(
    store: Store, run_id: str, summary: Mapping[str, Any] | None, *, keep: bool = False
) -> RunReport:
    """Gather what is to be told of a run.

    Args:
        store: the store.
        run_id: of the run.
        summary: what the run kept of itself, as its JSON has it; None: it did not come so far.
        keep: whether caches may be written; the store's lock must be held then.
    """
    told: Mapping[str, Any] = summary or {}
    notes = [] if summary else [_UNFINISHED]
    arrived = arrivals(store, run_id)
    identity = store.identity()
    labelled, drift = None, Drift("not known", "the store has no labels yet", "", 0, 0, [])
    if current_table(store) is not None:
        run = current_labels(store)
        then = (told.get("label") or {}).get("table")
        if then and then != run.table:
            notes.append(f"The run labelled as {then}; these are the labels in force now.")
        rows, size = label_rows(store, run.table), len(run.label_set.names)
        drop, before = samples(store, rows, size, run_id, arrived, keep=keep)
        drift = compare(drop, before)
        labelled = _labelled(run.label_set, rows, drop, before)
    images = pl.DataFrame(
        {"image_id": arrived.images, "path": arrived.paths},
        schema={"image_id": pl.String, "path": pl.String},
    )
    drawn = drop_labels(store, run_id, images)
    scan, embed = told.get("scan") or {}, told.get("embed") or {}
    waiting = scan.get("waiting", 0) + embed.get("waiting", 0) if summary else None
    examples, strange = class_examples(drawn), strangest(drawn)
    doubtful = disagreement(store, run_id, drawn)
    return RunReport(
        store=store.location,
        run_id=run_id,
        at=run_time(run_id).isoformat(timespec="seconds"),
        model=str(identity) if identity else None,
        arrived=arrived,
        waiting=waiting,
        labelled=labelled,
        drift=drift,
        examples=examples,
        strangest=strange,
        disagreement=doubtful,
        captions=_captions(store, [*_all(examples), *strange, *doubtful.images]),
        select=told.get("select"),
        train=told.get("train"),
        not_trained=told.get("not_trained"),
        embed=embed,
        seconds=dict(told.get("seconds") or {}),
        config=told.get("config"),
        notes=notes,
    )


def _all(classes: list[ClassExamples]) -> list[Example]:
    return [each for one in classes for side in (one.best, one.worst, one.unsure) for each in side]


def _captions(store: Store, shown: list[Example]) -> dict[str, str]:
    held = captions_of(store)
    return {each.image_id: held[each.image_id] for each in shown if each.image_id in held}


def _labelled(
    label_set: LabelSet, rows: pl.DataFrame, drop: Sample, before: Sample
) -> Labelled | None:
    """Sum up the labels of a drop; where nothing is new, of all images."""
    subject, other = (drop, before) if drop.images else (before, None)
    if not subject.images:
        return None
    calibrated = int(rows["calibrated"].sum())
    word = "score (not calibrated)"
    if calibrated:
        word = "confidence (calibrated by an audit)"
    if 0 < calibrated < len(rows):
        word = "confidence (calibrated for a part of the images only)"
    cuts = np.quantile(subject.confidence, QUANTILES)
    return Labelled(
        label_set=label_set.name,
        multi_label=label_set.multi_label,
        word=word,
        whose="the new images" if other else "all images (none is new)",
        images=subject.images,
        abstained=int(subject.labels[-1]),
        classes=_classes(label_set.names, subject.labels, other.labels if other else None),
        histogram=_histogram(subject),
        histogram_before=_histogram(other) if other and other.images else None,
        quantiles={f"{q:g}": float(cut) for q, cut in zip(QUANTILES, cuts, strict=True)},
        mean=float(subject.confidence.mean()),
    )


def _histogram(sample: Sample) -> list[int]:
    counts = np.histogram(sample.confidence, BINS, (0.0, 1.0))[0]
    return [int(count) for count in counts]


def _classes(names: list[str], ours: Ints, theirs: Ints | None) -> list[ClassLine]:
    total, others = int(ours.sum()), int(theirs.sum()) if theirs is not None else 0
    lines = []
    for number, name in enumerate([*names, None]):
        before = float(theirs[number] / others) if theirs is not None and others else None
        if ours[number] or before:
            count = int(ours[number])
            lines.append(ClassLine(name, count, count / total, before))
    return sorted(
        lines, key=lambda line: (-line.images, -(line.share_before or 0), str(line.label))
    )
