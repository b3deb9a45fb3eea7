"""What changed between two label runs: the same images joined, counted by what became of them.

Classes of two label sets are the same where their names are, but for case, `_` and `-`.
"""

from dataclasses import dataclass

import polars as pl

from pipeline.catalog import present_images
from pipeline.label_set import normal_word
from pipeline.labels.provenance import provenance
from pipeline.store import Store


@dataclass(frozen=True)
class Flow:
    """Images that went from one class to another one; null: abstained."""

    before: str | None
    after: str | None
    images: int


@dataclass(frozen=True)
class ClassCount:
    """How many images have a label, before and after."""

    label: str
    before: int
    after: int


@dataclass(frozen=True)
class Change:
    """An image whose label changed."""

    path: str
    image_id: str
    before: str | None  # null: abstained
    score_before: float
    after: str | None
    score_after: float


@dataclass(frozen=True)
class LabelDiff:
    """Two label runs, image by image; only images that lie under some path now."""

    before: str  # tables
    after: str
    images: int  # that both have a row of
    same: int  # with the same label
    changed: int  # from one class to another one
    newly_abstained: int
    newly_labelled: int
    abstained_in_both: int
    only_before: int  # images that the other run has no row of
    only_after: int
    mean_score_before: float | None  # over the images of both; null: there are none
    mean_score_after: float | None
    flows: list[Flow]  # the largest first
    classes: list[ClassCount]  # those of either label set, over the images of both
    classes_only_before: list[str]
    classes_only_after: list[str]
    examples: list[Change]  # the surest new labels first, then the surest of those that went


def label_diff(store: Store, before: str, after: str, *, examples: int = 10) -> LabelDiff:
    """Compare two label runs of a store.

    Args:
        store: the store.
        before: table of the one.
        after: table of the other.
        examples: changed images to name.

    Raises:
        DamagedFileError: a part is not as it was written.
        StoreError: a run was written by another version of this program.
    """
    present = present_images(store).select("image_id", "path")
    old, new = (_rows(store, table, present) for table in (before, after))
    both = old.join(new, on="image_id", suffix="_after")
    names = [_names(store, table, rows) for table, rows in ((before, old), (after, new))]
    word_of = {name: normal_word(name) for side in names for name in side}
    both = both.with_columns(
        pl.col(label).replace_strict(word_of, default=None, return_dtype=pl.String).alias(word)
        for label, word in (("label", "word"), ("label_after", "word_after"))
    )
    moved = both.filter(pl.col("word").ne_missing(pl.col("word_after")))
    went, came = (moved[name].is_null() for name in ("word_after", "word"))
    silent = int((both["word"].is_null() & both["word_after"].is_null()).sum())
    return LabelDiff(
        before=before,
        after=after,
        images=len(both),
        same=len(both) - len(moved) - silent,
        changed=len(moved) - int(went.sum()) - int(came.sum()),
        newly_abstained=int(went.sum()),
        newly_labelled=int(came.sum()),
        abstained_in_both=silent,
        only_before=len(old) - len(both),
        only_after=len(new) - len(both),
        mean_score_before=_mean(both["score"]),
        mean_score_after=_mean(both["score_after"]),
        flows=_flows(moved),
        classes=_classes(both, *names),
        classes_only_before=_without(*names),
        classes_only_after=_without(*reversed(names)),
        examples=_examples(moved, present, examples),
    )


def _rows(store: Store, table: str, present: pl.DataFrame) -> pl.DataFrame:
    rows = store.read(table, ["image_id", "label", "score"])
    rows = rows.filter(pl.col("image_id").is_first_distinct())
    return rows.join(present, on="image_id", how="semi")


def _names(store: Store, table: str, rows: pl.DataFrame) -> list[str]:
    """Return the classes of a run; where they are not kept, those that occur."""
    told = provenance(store, table)
    return told.label_set.names if told else rows["label"].drop_nulls().unique().sort().to_list()


def _mean(scores: pl.Series) -> float | None:
    return float(scores.cast(pl.Float64).sum()) / len(scores) if len(scores) else None


def _flows(moved: pl.DataFrame) -> list[Flow]:
    counted = moved.group_by("label", "label_after").len()
    counted = counted.sort("len", "label", "label_after", descending=[True, False, False])
    return [Flow(*row) for row in counted.iter_rows()]


def _classes(both: pl.DataFrame, old: list[str], new: list[str]) -> list[ClassCount]:
    """Count each class, in the order of the new label set and then of the old one."""
    counts = [
        dict(both[name].drop_nulls().value_counts().iter_rows()) for name in ("word", "word_after")
    ]
    shown = {normal_word(name): name for name in [*old, *new]}  # as the new one writes it
    order = dict.fromkeys(normal_word(name) for name in [*new, *old])
    return [ClassCount(shown[w], counts[0].get(w, 0), counts[1].get(w, 0)) for w in order]


def _without(names: list[str], others: list[str]) -> list[str]:
    words = {normal_word(name) for name in others}
    return [name for name in names if normal_word(name) not in words]


def _examples(moved: pl.DataFrame, present: pl.DataFrame, most: int) -> list[Change]:
    """Return the surest changes: by the score of the new label; where there is none, of the old."""
    silent = pl.col("label_after").is_null()
    sure = pl.when(silent).then(pl.col("score")).otherwise(pl.col("score_after"))
    order = moved.with_columns(silent=silent, sure=sure)
    order = order.sort("silent", "sure", "image_id", descending=[False, True, False]).head(most)
    named = order.join(present, on="image_id", maintain_order="left")
    columns = ("path", "image_id", "label", "score", "label_after", "score_after")
    return [Change(*row) for row in named.select(columns).iter_rows()]
