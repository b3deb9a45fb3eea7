"""Evaluate: the current labels of a store against a truth."""

from dataclasses import dataclass

import polars as pl

from pipeline.errors import InputError
from pipeline.labels.labelling import current_labels
from pipeline.labels.truth import read_truth
from pipeline.reports.metrics import Metrics, measure
from pipeline.store import Store


@dataclass(frozen=True)
class Evaluation:
    """The metrics, and what the truth did not cover."""

    metrics: Metrics
    calibrated: bool
    unmatched: int  # images whose true label is none of the label set
    contradictions: int  # images that the truth gives two labels


def evaluate(store: Store, truth: str, *, threshold: float) -> Evaluation:
    """Measure the current labels on the images that have a true one.

    Args:
        store: it must hold labels.
        truth: a CSV file or a folder, as in `labels.truth`.
        threshold: coverage counts labels of at least this confidence, 0 to 1.

    Raises:
        InputError: no labels yet, or the truth covers no image.
    """
    run = current_labels(store)
    known = read_truth(store, truth, run.label_set)
    wanted = ["image_id", "label", "confidence", "calibrated", "topk_labels"]
    rows = (
        store.read(run.table, wanted)
        .unique("image_id", keep="first", maintain_order=True)
        .filter(pl.col("image_id").is_in(list(known.labels)))
    )
    if not len(rows):
        raise InputError(
            f"{store.location}: no image that the truth covers is labelled: `pseudolabel run` first"
        )
    metrics = measure(
        [known.labels[image_id] for image_id in rows["image_id"]],
        rows["topk_labels"].to_list(),
        rows["confidence"].to_list(),
        rows["label"].is_not_null().to_list(),
        classes=run.label_set.names,
        threshold=threshold,
    )
    return Evaluation(
        metrics, bool(rows["calibrated"].all()), known.unmatched, known.contradictions
    )
