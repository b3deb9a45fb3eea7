"""Evaluate: the current labels of a store against a truth."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.arrays import Ints
from pipeline.errors import InputError, StoreError
from pipeline.labels.labelling import current_labels
from pipeline.labels.truth import Truth, read_truth
from pipeline.reports.bands import AgreementTold, told_by_agreement
from pipeline.reports.confusion import Cell, confusion, grid, in_words
from pipeline.reports.curves import Bin, Point
from pipeline.reports.metrics import NONE, Metrics, measure
from pipeline.reports.plots import agreement_png, confusion_png, coverage_png, reliability_png
from pipeline.search.agreement import label_agreement
from pipeline.store import Store


@dataclass(frozen=True)
class Evaluation:
    """The metrics, the curves and counts behind them, and what the truth did not cover."""

    table: str  # of the label run
    classes: list[str]
    metrics: Metrics
    curve: list[Point]  # accuracy and coverage of the labels at and above a confidence
    bins: list[Bin]  # of the reliability diagram
    confusion: list[Cell]  # the most frequent first; the only place where `unmatched` count
    confused: list[str]  # the same in words, the worst mistakes first
    calibrated: bool
    unmatched: int  # images whose true label is none of the label set
    contradictions: int  # images that the truth gives two labels
    absent: int  # rows of a truth file that name no image of the store
    unlabelled: int  # images with a true label that the label run has not come to
    agreement: AgreementTold | None  # null: the neighbours of these images were not searched

    @property
    def word(self) -> str:
        """What the number beside a label may be called."""
        return "confidence" if self.calibrated else "score"


def evaluate(store: Store, truth: str, *, threshold: float) -> Evaluation:
    """Measure the current labels on the images that have a true one.

    Args:
        store: it must hold labels.
        truth: a CSV file or a folder, as in `labels.truth`.
        threshold: coverage counts labels of at least this confidence, 0 to 1.

    Raises:
        InputError: no labels yet, or the truth covers no image.
        StoreError: a confidence is not a number.
    """
    run = current_labels(store)
    known = read_truth(store, truth, run.label_set)
    names = run.label_set.names
    rows = _rows(store, run.table, known, names)
    matched = rows.filter(pl.col("true") != NONE)
    if not len(matched):
        raise InputError(
            f"{store.location}: no image that the truth covers is labelled: `pseudolabel run` first"
        )
    try:
        measured = measure(
            matched["true"].to_numpy(),
            _indices(matched["topk_labels"], names),
            matched["confidence"].to_numpy(),
            (matched["label_index"] >= 0).to_numpy(),
            classes=names,
            threshold=threshold,
        )
    except ValueError as error:
        raise StoreError(f"{store.location}: {run.table}: {error}") from error
    cells = confusion(
        rows["true"].to_numpy(), rows["label_index"].to_numpy().astype(np.int64), names
    )
    return Evaluation(
        table=run.table,
        classes=names,
        metrics=measured.metrics,
        curve=measured.curve,
        bins=measured.bins,
        confusion=cells,
        confused=in_words(cells),
        calibrated=bool(matched["calibrated"].all()),
        unmatched=known.unmatched,
        contradictions=known.contradictions,
        absent=known.absent,
        unlabelled=len(known.labels) - len(matched),
        agreement=_agreement(store, matched, names),
    )


def write_evaluation(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write evaluation.json, reliability.png, coverage.png and confusion.png; return their paths.

    Where neighbours were compared there is an agreement.png, too.

    Args:
        evaluation: what was measured.
        folder: made where it is not there; files of these names in it are replaced.

    Raises:
        InputError: it is no folder, or cannot be made.
    """
    told, word = evaluation.metrics, evaluation.word
    shown = grid(evaluation.confusion, evaluation.classes)
    content = json.dumps(asdict(evaluation), indent=2, ensure_ascii=False)
    files = {
        "evaluation.json": content.encode(errors="backslashreplace"),
        "reliability.png": reliability_png(evaluation.bins, word=word, error=told.ece),
        "coverage.png": coverage_png(evaluation.curve, told.coverage_at, word=word),
        "confusion.png": confusion_png(shown, len(evaluation.classes)),
    }
    if evaluation.agreement is not None:
        files["agreement.png"] = agreement_png(evaluation.agreement, word=word)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"--out {folder}: a file is in the way; name a folder") from error
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def _rows(store: Store, table: str, known: Truth, names: Sequence[str]) -> pl.DataFrame:
    """Return the label rows of the images that the truth tells of, with `true` as an index."""
    index = {name: at for at, name in enumerate(names)}
    true = [index[name] for name in known.labels.values()] + [NONE] * len(known.outside)
    told = pl.DataFrame(
        {"image_id": [*known.labels, *known.outside], "true": true},
        schema={"image_id": pl.String, "true": pl.Int64},
    )
    wanted = ["image_id", "label_index", "confidence", "calibrated", "topk_labels"]
    rows = store.read(table, wanted).filter(pl.col("image_id").is_first_distinct())
    return rows.join(told, on="image_id", how="inner", maintain_order="left")


def _agreement(store: Store, rows: pl.DataFrame, names: Sequence[str]) -> AgreementTold | None:
    """Return what the neighbours of the labelled images among `rows` tell of being right."""
    compared = label_agreement(store, rows["image_id"])
    if compared is None:
        return None
    told = rows.join(compared.drop("label_index"), on="image_id").filter(pl.col("label_index") >= 0)
    if not len(told):
        return None
    given = told["label_index"].to_numpy().astype(np.int64)
    return told_by_agreement(
        told["agreement"].to_numpy(),
        told["confidence"].to_numpy(),
        given,
        given == told["true"].to_numpy(),
        classes=names,
    )


def _indices(ranked: pl.Series, names: Sequence[str]) -> Ints:
    """Return lists of labels (N) as class indices (N, K); NONE where a list is shorter."""
    longest = int(str(ranked.list.len().max()))
    categories, columns = pl.Enum(names), []
    for place in range(longest):
        labels = ranked.list.get(place, null_on_oob=True).cast(categories)
        columns.append(labels.to_physical().cast(pl.Int64).fill_null(NONE).to_numpy())
    return np.stack(columns, axis=1)
