"""Select: the subset worth training on, a side for each image, a reason for each one left out."""

from dataclasses import asdict, dataclass, replace

import numpy as np
import polars as pl

from pipeline.catalog import present_images
from pipeline.identity import digest
from pipeline.labels.answers import LABEL, NONE, answers_state, last_rows
from pipeline.labels.confidence import calibration_state
from pipeline.labels.labelling import current_labels
from pipeline.labels.truth import read_truth, truth_state
from pipeline.search.duplicates import near_duplicates
from pipeline.search.index import SearchIndex, load_index
from pipeline.store import Store
from pipeline.tables import SELECTION, SELECTIONS
from pipeline.training.policies import Rules, best_first, choose
from pipeline.training.splits import SplitBy, by_crowd, by_folder, oldest, split

TABLE = SELECTION
_PART = "selection"
# Of an image whose class a person named; one that a model is sure of weighs 1 at most. Whether it
# was 1, 4 or 11 changed little on the sets of `tests/benchmarks/heads.py`.
ANSWER_WEIGHT = 4.0


@dataclass(frozen=True, kw_only=True)
class SelectSettings:
    """All that decides a selection; units, ranges and defaults are in `config.SelectConfig`."""

    rules: Rules
    duplicate_cosine: float
    split_by: SplitBy
    valid_share: float
    truth: str  # a CSV file or a folder, as in `labels.truth`; empty: there is none


@dataclass(frozen=True)
class ClassBalance:
    """What a class is before and after selecting; shares of all labelled and of all kept images."""

    label: str
    images: int
    share: float
    kept: int
    kept_share: float


@dataclass(frozen=True)
class SelectSummary:
    """What was kept and why the rest was not."""

    kept: int
    train: int  # of the images kept
    valid: int  # of the images kept
    test: int  # held out: images with a truth, and what stays together with them
    left_out: dict[str, int]  # images by reason
    classes: list[ClassBalance]  # largest first


def select(store: Store, settings: SelectSettings) -> SelectSummary:
    """Select from the current labels of the images that are present, and write `selections`.

    Args:
        store: the store to read from and write to.
        settings: what decides.

    Raises:
        InputError: the store has no labels or no index yet, or the truth is bad or gone.
    """
    run = current_labels(store)
    made_of = selection_fingerprint(store, settings)
    wanted = ["image_id", "label", "confidence", "calibrated", "reason"]
    labels = store.read(run.table, wanted).unique("image_id")
    images = present_images(store).join(labels, on="image_id", how="inner", maintain_order="left")
    images = answered(images, last_rows(store, run.label_set))
    known = read_truth(store, settings.truth, run.label_set).labels if settings.truth else {}
    grouped = _grouped(store, best_first(images), load_index(store), settings)
    sided = split(grouped, known=known, valid_share=settings.valid_share)
    rows = chosen(sided, settings.rules)
    table = rows.select(SELECTIONS.names).to_arrow().cast(SELECTIONS)
    store.write_part(TABLE, _PART, table, made_of)
    return summarise(rows)


def answered(images: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
    """Put what a person said in an audit in the place of what the model says.

    Args:
        images: image_id, label, confidence and reason.
        answers: image_id, answer and label_given, as `answers.last_rows` gives them.

    Returns:
        The images, and whether a person named the class: `answered`.
    """
    told = answers.filter(pl.col("answer").is_in([LABEL, NONE]))
    told = told.select("image_id", "answer", "label_given")
    both = images.join(told, on="image_id", how="left", maintain_order="left")
    named, none = (pl.col("answer").eq_missing(word) for word in (LABEL, NONE))
    return both.with_columns(
        label=pl.when(named).then("label_given").when(~none).then("label"),
        confidence=pl.when(named).then(1.0).otherwise("confidence"),
        reason=pl.when(none).then(pl.lit("no class fits, says an audit")).otherwise("reason"),
        answered=named,
    ).drop("answer", "label_given")


def chosen(images: pl.DataFrame, rules: Rules) -> pl.DataFrame:
    """Choose as `policies.choose` does, of images that say whether a person `answered` for them."""
    told = pl.col("answered") & pl.col("kept")
    rows = choose(images, rules)
    return rows.with_columns(weight=pl.when(told).then(ANSWER_WEIGHT).otherwise("weight"))


def summarise(rows: pl.DataFrame) -> SelectSummary:
    """Count the rows of a selection, with label, split, kept and reason."""
    kept = rows.filter("kept")
    reasons = rows.filter(~pl.col("kept"))["reason"].str.replace(r"^(near-duplicate) of .*", "$1")
    labelled = rows.drop_nulls("label")
    balance = (
        labelled.group_by("label")
        .agg(images=pl.len(), kept=pl.col("kept").sum())
        .sort("images", "label", descending=[True, False])
    )
    return SelectSummary(
        kept=len(kept),
        train=len(kept.filter(split="train")),
        valid=len(kept.filter(split="valid")),
        test=len(rows.filter(split="test")),
        left_out=dict(sorted(reasons.value_counts().iter_rows())),
        classes=[
            ClassBalance(label, images, images / len(labelled), some, some / max(len(kept), 1))
            for label, images, some in balance.iter_rows()
        ],
    )


def selection_fingerprint(store: Store, settings: SelectSettings) -> str:
    """Return what the selection would be made of now.

    Raises:
        InputError: the truth is gone.
    """
    run = current_labels(store)
    table = run.table
    # Not how the truth was written: what it says counts.
    asked = asdict(replace(settings, truth=""))
    told = truth_state(settings.truth) if settings.truth else ""
    state = store.state("files", "embeddings", table)
    said = answers_state(store, run.label_set)
    return digest([state, asked, told, calibration_state(store, table), said])


def is_current(store: Store, settings: SelectSettings) -> bool:
    """Tell whether the written selection is the one that would be written now."""
    return store.fingerprint(TABLE, _PART) == selection_fingerprint(store, settings)


def selection_state(store: Store) -> str:
    """Return the fingerprint of the written selection; empty when there is none."""
    return store.fingerprint(TABLE, _PART) or ""


def _grouped(
    store: Store, ranked: pl.DataFrame, index: SearchIndex, settings: SelectSettings
) -> pl.DataFrame:
    """Add group, the image that stands for this one and its near-duplicates, crowd, split_group."""
    place = {image_id: rank for rank, image_id in enumerate(ranked["image_id"])}
    # An image that is gone is still in the index; it stands behind all that are there.
    rank = np.array([place.get(image_id, len(place)) for image_id in index.ids], np.int64)
    found = near_duplicates(index, rank, cosine=settings.duplicate_cosine)
    ids = pl.Series("image_id", index.ids, pl.String)
    own = pl.Series("group", [index.ids[row] for row in found.leaders], pl.String)
    leaders = pl.DataFrame([ids, own])
    crowds = pl.DataFrame([ids, pl.Series("crowd", found.crowds)])
    grouped = ranked.join(leaders, on="image_id", how="left", maintain_order="left")
    grouped = grouped.join(crowds, on="image_id", how="left", maintain_order="left")
    if settings.split_by == "folder":
        return by_folder(grouped)
    return by_crowd(grouped, crowds, oldest(store))
