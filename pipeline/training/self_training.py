"""Self-training: a head relabels the images it has not seen, and another learns from that.

In each round the images are cut in two by a hash of the groups that stay together; a head taught
by one half labels the other (cross-fitting), for what it has learnt by heart it only repeats.
Labels drift when nobody holds them: every round must leave the surest first labels alone, or it
does not count (`RETAINED`), and rounds end when hardly any label changes.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime

import numpy as np
import polars as pl

from pipeline.arrays import Floats
from pipeline.clip.protocol import ImageEncoder
from pipeline.identity import digest
from pipeline.label_set import LabelVectors
from pipeline.labels.answers import answered_until, last_rows
from pipeline.labels.labelling import current_labels
from pipeline.store import Store
from pipeline.training.data import read_data
from pipeline.training.freshness import train_fingerprint
from pipeline.training.head_labels import label_by_head
from pipeline.training.heads.base import Head, OnEpoch, TextClassifier
from pipeline.training.labelled import Labelled, gather
from pipeline.training.policies import Rules
from pipeline.training.recipe import Recipe
from pipeline.training.selection import answered, chosen
from pipeline.training.side.encoding import SideEncoding
from pipeline.training.side.information import read_side
from pipeline.training.splits import half_of
from pipeline.training.train import MakeHead

ROUNDS = 3
RETAINED = 0.97  # of the surest first labels, or the round does not count
SETTLED = 0.005  # of all labels: fewer changes end the rounds
_SUREST = 0.2  # of each class, by the margin of the first labels
_ENOUGH = 10  # images of a class, or it is not asked


@dataclass(frozen=True)
class Round:
    """One round; shares from 0 to 1."""

    number: int
    table: str  # of its labels, kept whatever became of it
    flips: float  # of all labels, against the round before
    retention: float  # of the surest first labels
    counts: bool
    why: str  # for people


@dataclass(frozen=True)
class SelfTraining:
    """What came of it."""

    rounds: list[Round]
    table: str  # of the labels of the last round that counts; the first labels where none does


def self_train(
    store: Store,
    recipe: Recipe,
    rules: Rules,
    text: TextClassifier,
    vectors: LabelVectors,
    *,
    make_head: MakeHead,
    encoder: Callable[[], ImageEncoder],
    now: datetime,
    rounds: int = ROUNDS,
    on_head: Callable[[str], OnEpoch] = lambda _: lambda _: None,
) -> SelfTraining:
    """Relabel the images of a store in rounds, from the labels in force on; none comes into force.

    Args:
        store: it must hold a selection; its lock must be held.
        recipe: its first head is the one that is taught.
        rules: what each round selects by.
        text: what the texts of the labels in force say.
        vectors: the same texts, with the reject prompts.
        make_head: returns an unfitted head.
        encoder: called only when side texts are to be embedded that never were.
        now: the present, with time zone.
        rounds: at most.
        on_head: told of each head that is fitted; what it returns is told of each epoch.

    Raises:
        InputError: there is nothing to learn from, or side information leaks labels.
    """
    run = current_labels(store)
    found = gather(store, None)
    first = last = _labels(store, run.table)
    done: list[Round] = []
    table = run.table
    # The rules too: of later rounds they decide what is learnt from.
    fingerprint, learnt_until = (
        train_fingerprint(store, recipe),
        answered_until(store, run.label_set),
    )

    def teach(part: Labelled, name: str) -> _Taught:
        data = read_data(store, part, recipe, run.label_set, encoder)
        head = make_head(recipe.heads[0], text, data.train.sizes, recipe.settings)
        head.fit(data.train, data.valid, on_head(name))
        return _Taught(head, data.side.encoding if data.side else None)

    def ask(taught: _Taught, images: pl.DataFrame, wide: Floats) -> Floats:
        side = np.empty((len(wide), 0), np.float32)
        if taught.encoding is not None:
            known = read_side(store, recipe.side, run.label_set, encoder, images)
            side = known.encode(taught.encoding)
        return taught.head.predict_proba(wide, side)

    names = dict(zip(found.frame["image_id"], _groups(found.frame), strict=True))
    for number in range(1, rounds + 1):
        taught = [
            teach(_half(found, half), f"half {half + 1} of round {number}") for half in (0, 1)
        ]

        def answer(images: pl.DataFrame, wide: Floats, taught: list[_Taught] = taught) -> Floats:
            """Have each image answered by the head that was taught by the other half."""
            half = np.array([half_of(names.get(each, each)) for each in images["image_id"]])
            first_half, second_half = (ask(each, images, wide) for each in taught)
            return np.where((half == 0)[:, None], second_half, first_half)

        written = label_by_head(
            store,
            replace(run.question, refine="none"),
            vectors,
            answer,
            source=f"self-train:{number}",
            made_of=digest([table, number, fingerprint, asdict(rules)]),
            learnt_until=learnt_until,
            now=now,
        )
        labels = _labels(store, written.table)
        each = _judge(number, written.table, first, last, labels)
        done.append(each)
        if not each.counts:
            break
        table, last = written.table, labels
        if each.flips < SETTLED:
            break
        found = _relabelled(found, labels, last_rows(store, run.label_set), rules)
    return SelfTraining(done, table)


@dataclass(frozen=True)
class _Taught:
    """A head, and how what stands beside its images becomes numbers."""

    head: Head
    encoding: SideEncoding | None


def _half(found: Labelled, half: int) -> Labelled:
    """Leave only the images of one half to be learnt from."""
    mine = pl.Series([half_of(name) == half for name in _groups(found.frame)], dtype=pl.Boolean)
    return replace(found, frame=found.frame.with_columns(kept=pl.col("kept") & mine))


def _groups(frame: pl.DataFrame) -> pl.Series:
    """Return the name of what each image stays together with."""
    return frame.select(pl.coalesce("split_group", "image_id")).to_series()


def _labels(store: Store, table: str) -> pl.DataFrame:
    """Return a run's rows, top_label and top_score among them; label is null where it abstained."""
    wanted = ["image_id", "topk_labels", "topk_scores", "label", "score", "margin", "reason"]
    rows = store.read(table, wanted).unique("image_id")
    return rows.with_columns(
        top_label=pl.col("topk_labels").list.first(), top_score=pl.col("topk_scores").list.first()
    )


def _judge(
    number: int, table: str, first: pl.DataFrame, last: pl.DataFrame, labels: pl.DataFrame
) -> Round:
    """Measure what a round changed, and say whether it counts."""
    flips, retention = changed(last, labels), retained(first, labels)
    counts = retention >= RETAINED
    if not counts:
        why = f"only {retention:.1%} of the surest first labels were left alone: labels drift"
    elif flips < SETTLED:
        why = "hardly a label changes any more"
    else:
        why = f"{flips:.1%} of the labels changed"
    return Round(number, table, flips, retention, counts, why)


def changed(before: pl.DataFrame, after: pl.DataFrame) -> float:
    """Return the share of images whose likeliest label is another one: image_id, top_label."""
    both = before.join(after, on="image_id", suffix="_after")
    share = (both["top_label"] != both["top_label_after"]).mean()
    return float(str(share or 0.0))


def retained(first: pl.DataFrame, after: pl.DataFrame) -> float:
    """Return what share of the surest first labels is still given.

    Args:
        first: image_id, top_label, margin; of each class of 10 images or more its surest fifth is
            asked, by margin. Where no class has as many nothing can be told: 1.
        after: image_id, top_label.
    """
    size, place = pl.len().over("top_label"), pl.col("margin").rank("ordinal", descending=True)
    surest = first.sort("image_id").filter(
        (size >= _ENOUGH) & (place.over("top_label") <= (size * _SUREST).ceil())
    )
    return 1.0 - changed(surest, after) if len(surest) else 1.0


def _relabelled(
    found: Labelled, labels: pl.DataFrame, answers: pl.DataFrame, rules: Rules
) -> Labelled:
    """Select anew by the labels of a round, and by what a person said; splits and groups stay."""
    stays = ["image_id", "path", "naive_label", "naive_score", "split", "split_group"]
    stays += ["duplicate_group", "right"]
    frame = found.frame.select(stays).join(
        labels.rename({"score": "confidence"}).drop("margin"),
        on="image_id",
        how="left",
        maintain_order="left",
    )
    frame = answered(frame, answers).with_columns(group=pl.coalesce("duplicate_group", "image_id"))
    kept = chosen(frame, rules).select("image_id", "kept", "weight")
    frame = frame.join(kept, on="image_id", how="left", maintain_order="left")
    return replace(found, frame=frame)
