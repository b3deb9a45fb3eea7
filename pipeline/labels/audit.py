"""Audit: draw images for a person; make of the answers an estimate, and confidences for all rows.

What is estimated holds for the images that could be drawn: those that were there when one of the
rounds was drawn, and whose label was not refused by a reject prompt or an unknown score.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from pipeline.arrays import Bools, Doubles, Floats
from pipeline.catalog import present_images
from pipeline.errors import InputError
from pipeline.label_set import LabelSet
from pipeline.labels.answers import (
    LABEL,
    NONE,
    all_rows,
    answers_state,
    last_rows,
    learnt,
    record_draw,
    require_no_answers,
)
from pipeline.labels.calibration import Fit, fit
from pipeline.labels.confidence import (
    Held,
    held_calibration,
    keep_calibration,
    rewrite,
)
from pipeline.labels.labelling import current_labels
from pipeline.labels.question import LabelRun
from pipeline.labels.sampling import cohorts, draw, equally_likely, weigh
from pipeline.store import Store

LEAST_ANSWERS = 20  # fewer calibrate nothing


@dataclass(frozen=True)
class Sample:
    """The images of a round, in random order."""

    round: int
    images: pl.DataFrame  # image_id, path, label_shown, score ...
    again: bool  # drawn before, and not answered yet


@dataclass(frozen=True)
class Evidence:
    """The answers that tell of a label run, beside the images they tell of."""

    images: Floats  # (N,) scores of the images that could be drawn
    unaudited: int  # images that came after the last round
    ids: list[str]  # of the n answered images
    scores: Floats  # (n,)
    right: Bools  # (n,)
    weights: Doubles  # (n,) images that each answer stands for now
    representative: Bools  # (n,) those that are as a plain random sample
    image_unknown: Floats  # (N,) how unknown the images are
    unknown: Floats  # (n,) how unknown the answered ones are
    known: Bools  # (n,) whether one of the classes is right, whichever
    learnt: int  # answers left out, for the head that gave these labels has learnt from them


def draw_sample(
    store: Store, *, size: int, seed: int, now: datetime, among: set[str] | None = None
) -> Sample:
    """Draw images that were not answered yet, and record them.

    A round that nobody has answered is handed out again.

    Args:
        store: the store; its lock must be held.
        size: how many, above 0.
        seed: the same store, seed and round give the same images.
        now: the present, with time zone.
        among: only these image ids; all when None.

    Raises:
        InputError: there are no labels, every image is answered, or a class is called as an answer.
    """
    run = current_labels(store)
    require_no_answers(run.label_set)
    drawn = last_rows(store, run.label_set)
    answered = drawn.filter(pl.col("answer").is_not_null())
    images = labelled_images(store, run)
    pool = images.join(answered, on="image_id", how="anti").sort("image_id")
    if among is not None:
        pool = pool.filter(pl.col("image_id").is_in(list(among)))
    if not len(pool):
        raise InputError(
            f"{store.location}: all {len(images)} labelled images are answered already"
        )
    last = int(drawn["round"].max() or 0)  # type: ignore[arg-type]
    open_round = drawn.filter((pl.col("round") == last) & pl.col("answer").is_null())
    same = (
        among is None
        and not (answered["round"] == last).any()
        and 0 < len(open_round) == min(size, len(pool))
        and open_round["image_id"].is_in(pool["image_id"].implode()).all()
    )
    if same:
        return Sample(last, open_round, again=True)
    index = {name: at for at, name in enumerate(run.label_set.names)}
    classes = np.array([index.get(name, -1) for name in pool["label_shown"]], np.int64)
    chosen = draw(pool["score"].to_numpy(), classes, size, seed + last)
    rows = pool[chosen.rows].with_columns(
        pl.Series("stratum", chosen.stratum),
        pl.Series("weight", chosen.weight),
        round=pl.lit(last + 1),
    )
    record_draw(store, run.label_set, rows.drop("seen"), now=now)
    return Sample(last + 1, rows, again=False)


def labelled_images(store: Store, run: LabelRun) -> pl.DataFrame:
    """Return the images that may be drawn: image_id, path, label_shown, score, unknown_score, seen.

    An image below the bar may be: where the bar is put is what an audit is for.
    """
    wanted = ["image_id", "score", "unknown_score", "topk_labels", "reason"]
    rows = store.read(run.table, wanted).unique("image_id", keep="first", maintain_order=True)
    by_bar = pl.col("reason").str.contains(r"^(score|confidence) below ").fill_null(True)
    rows = rows.filter(by_bar).with_columns(label_shown=pl.col("topk_labels").list.first())
    diary = store.read("files", ["image_id", "seen_at"]).drop_nulls()
    first = diary.group_by("image_id").agg(seen=pl.col("seen_at").min())
    return (
        present_images(store)
        .join(rows, on="image_id", maintain_order="left")
        .join(first, on="image_id", how="left", maintain_order="left")
        .select("image_id", "path", "label_shown", "score", "unknown_score", "seen")
    )


def gather(store: Store, run: LabelRun) -> Evidence:
    """Lay the answers about a label set beside the present labels of a run.

    What a head has learnt by heart it gets right: such answers tell nothing of its other labels.
    """
    rows = all_rows(store, run.label_set)
    rounds = rows.group_by("round").agg(pl.col("at").min())
    told = last_rows(store, run.label_set).filter(pl.col("answer").is_in([LABEL, NONE]))
    by_heart = pl.col("image_id").is_in(learnt(rows, run.learnt_until).implode())
    told, left_out = told.filter(~by_heart), len(told.filter(by_heart))
    asked = rounds.join(told, on="round", how="semi")["at"].sort().dt.epoch("us").to_numpy()
    images = labelled_images(store, run).join(
        told.select("image_id", "answer", "label_given"),
        on="image_id",
        how="left",
        maintain_order="left",
    )
    answered = images["answer"].is_not_null().to_numpy()
    cohort = cohorts(images["seen"].dt.epoch("us").to_numpy(), asked)
    weights = weigh(cohort, answered)
    own = images.filter(pl.Series(answered))
    right = (own["label_shown"] == own["label_given"]).fill_null(False).to_numpy()
    ids = own["image_id"].to_list()
    return Evidence(
        images=images["score"].to_numpy()[weights > 0],
        unaudited=int((weights == 0).sum()),
        ids=ids,
        scores=own["score"].to_numpy(),
        right=right,
        weights=weights[answered],
        representative=equally_likely(ids, weights[answered]),
        image_unknown=images["unknown_score"].to_numpy()[weights > 0],
        unknown=own["unknown_score"].to_numpy(),
        known=(own["answer"] == LABEL).to_numpy(),
        learnt=left_out,
    )


def calibrate(evidence: Evidence) -> Fit | None:
    """Fit the confidences to the answers; None where there are fewer than LEAST_ANSWERS."""
    if len(evidence.ids) < LEAST_ANSWERS:
        return None
    return fit(evidence.scores, evidence.right, evidence.weights)


def is_stale(store: Store, table: str, label_set: LabelSet) -> bool:
    """Tell whether a label run has not the confidences that the answers give it."""
    held, state = held_calibration(store, table), answers_state(store, label_set)
    if held is None:
        return state != ""
    return held.answers != state or not held.applied


def bring_up(store: Store, on_progress: Callable[[int], None] = lambda _: None) -> bool:
    """Give the label run in force the confidences that the answers give it; tell if that was due.

    Args:
        store: the store; its lock must be held.
        on_progress: told how many images were rewritten since it was last told.

    Raises:
        InputError: there are no labels yet.
        DamagedFileError: a file of the store is not as it was written.
    """
    run = current_labels(store)
    if not is_stale(store, run.table, run.label_set):
        return False
    state, held = answers_state(store, run.label_set), held_calibration(store, run.table)
    if held is None or held.answers != state:
        fitted = calibrate(gather(store, run))
        held = Held(fitted.calibration if fitted else None, state, applied=False)
        keep_calibration(store, run.table, held)
    rewrite(store, run.table, held.calibration, run.label_set, run.abstain_below, on_progress)
    keep_calibration(store, run.table, Held(held.calibration, state, applied=True))
    return True
