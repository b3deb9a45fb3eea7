"""Policies: which labelled images are worth training on, and a reason for each of the others.

A frame in, a frame out: no store is touched.

- threshold: all that are sure enough. Sure classes crowd out the rest, so that a model trained on
  them may fall below the labels themselves; the cap per class holds them back.
- quantile: the best share of each predicted class.
- top-k: the best k of each predicted class (as in UPL, Huang et al. 2022, 2204.03649).

The last two would fill a class that is not there with what resembles it most. Such a class has few
members, for its images belong to others, and unsure ones, for another class fits them nearly as
well. So a class of fewer than `min_members` gives none, nor does an image that is less sure than
`floor` times the median of all images that could be kept. The median, and no fixed number, since
what is a high score depends on the model and on how many classes there are to choose from.
"""

from dataclasses import dataclass
from typing import Literal

import polars as pl

Policy = Literal["threshold", "quantile", "top-k"]
HELD_OUT = "held out for testing"
_ROUNDING = 1e-9  # 0.1 of 30 is 3, not the 4 that its floating-point product is rounded up to


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What decides; units, ranges and defaults are in `config.SelectConfig`."""

    policy: Policy
    min_confidence: float  # of every policy; at it is kept
    max_per_class: int  # of every policy
    share: float  # of a class: quantile
    per_class: int  # images: top-k
    floor: float  # of the median confidence: quantile, top-k
    min_members: int  # images: quantile, top-k


def choose(images: pl.DataFrame, rules: Rules) -> pl.DataFrame:
    """Decide for each image, given label, confidence, reason (of abstaining) and group.

    Of each group of near-duplicates one image stands for all: its `leader`, or else the surest. The
    others, and images for testing, count neither towards a class nor towards a cap.

    Args:
        images: image_id, label, confidence, reason, and group, which near-duplicates share; with
            `leader`, the image of the group that stands for it; with `split`, images of "test" are
            never kept; with `calibrated`, a reason says "score" where no audit made it a
            confidence.
        rules: what decides.

    Raises:
        ValueError: a labelled image has no confidence that is a number.

    Returns:
        The rows with reason (null: kept), duplicate_group, kept and weight; the best image first.
    """
    unsure = ~pl.col("confidence").is_finite().fill_null(value=False)
    for name in images.filter(pl.col("label").is_not_null() & unsure)["image_id"]:
        raise ValueError(f"image {name} has a label and no confidence that is a number")
    own = pl.coalesce(pl.col("group").cast(pl.String), pl.col("image_id"))  # null is no group
    ranked = best_first(images.with_columns(group=own))
    if "leader" not in ranked.columns:
        ranked = ranked.with_columns(leader=pl.col("image_id").first().over("group"))
    told = _reason(ranked, rules)
    twins = pl.len().over("group") > 1
    return ranked.with_columns(
        told.alias("reason"), duplicate_group=pl.when(twins).then("leader").otherwise(None)
    ).with_columns(
        kept=pl.col("reason").is_null(),
        weight=pl.when(pl.col("reason").is_null()).then(pl.col("confidence")).otherwise(0.0),
    )


def best_first(images: pl.DataFrame) -> pl.DataFrame:
    """Sort images: labelled before abstained, then by confidence.

    The image id breaks ties, so that the same images give the same selection in any order.
    """
    return images.sort(
        [pl.col("label").is_null(), "confidence", "image_id"], descending=[False, True, False]
    )


def fittest_first(images: pl.DataFrame, bar: float) -> pl.DataFrame:
    """Sort images by how fit they are to stand for their near-duplicates in training.

    Whom a person named the class of comes first, for that label is right. Then who passes the bar,
    or a group would be lost with its leader; then who is surer by a tenth or more, for where twins
    have different labels the surer one is right more often. Among those about as sure the one with
    the most pixels is best: it shows what a smaller copy lost, and twins are as good as each other
    in all else.

    Args:
        images: image_id, label, confidence, answered and pixels.
        bar: the confidence that is needed to be kept.
    """
    passes = pl.col("confidence").cast(pl.Float32) >= pl.lit(bar, pl.Float32)
    tenth = (pl.col("confidence").cast(pl.Float64) * 10 + _ROUNDING).floor()
    keys = [pl.col("label").is_null(), ~pl.col("answered"), ~passes, -tenth, -pl.col("pixels")]
    return images.sort([*keys, -pl.col("confidence"), "image_id"], nulls_last=True)


def _reason(ranked: pl.DataFrame, rules: Rules) -> pl.Series:
    """Return why each image is left out, null where it is kept, of images best first."""
    known = "calibrated" not in ranked.columns or ranked["calibrated"].all()
    measure = "confidence" if known else "score"
    test = pl.col("split").eq_missing("test") if "split" in ranked.columns else pl.lit(value=False)
    labelled, leads = pl.col("label").is_not_null(), pl.col("leader") == pl.col("image_id")
    confidence, bar = pl.col("confidence"), rules.min_confidence
    frame = ranked.with_columns(candidate=labelled & leads & ~test)
    # Of each class its best come first: whoever is too unsure stands behind all who are not.
    place = pl.col("candidate").cast(pl.Int64).cum_sum().over("label")
    reasons = [
        (~labelled, pl.concat_str(pl.lit("abstained: "), pl.col("reason").fill_null("no label"))),
        (test, pl.lit(HELD_OUT)),
        (confidence < bar, pl.lit(f"{measure} below {bar:g}")),
        (~leads, pl.concat_str(pl.lit("near-duplicate of "), pl.col("leader"))),
    ]
    if rules.policy != "threshold":
        members = pl.col("candidate").sum().over("label")
        median = frame.filter("candidate")["confidence"].median()
        floor = rules.floor * float(str(median or 0.0))
        quota, best = pl.lit(float(rules.per_class)), f"{rules.per_class} of its class"
        if rules.policy == "quantile":
            quota = (members * rules.share - _ROUNDING).ceil()
            best = f"{rules.share:.0%} of its class"
        reasons += [
            (members < rules.min_members, pl.lit(f"fewer than {rules.min_members} of its class")),
            (place > quota, pl.lit(f"not among the best {best}")),
            (confidence < floor, pl.lit(f"{measure} below {rules.floor:g} x the median")),
        ]
    cap = rules.max_per_class
    reasons.append((place > cap, pl.lit(f"more than {cap} of its class")))
    told = pl.coalesce([pl.when(holds).then(text) for holds, text in reasons])
    return frame.select(told.alias("reason"))["reason"]
