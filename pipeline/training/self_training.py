"""Self-training: a head relabels the images it has not seen, and another learns from that.

In each round the images are cut in two by a hash of the groups that stay together; a head taught
by one half labels the other (cross-fitting), for what it has learnt by heart it only repeats.
Labels drift when nobody holds them: every round must leave the surest first labels alone, or it
does not count (`RETAINED`), and rounds end when hardly any label changes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

import numpy as np
import polars as pl

from pipeline.arrays import Floats
from pipeline.clip.protocol import ImageEncoder
from pipeline.identity import digest
from pipeline.label_set import LabelSet, LabelVectors
from pipeline.labels.answers import answered_until, last_rows
from pipeline.labels.labelling import current_labels
from pipeline.store import Store
from pipeline.training.data import read_data
from pipeline.training.freshness import train_fingerprint
from pipeline.training.head_labels import Answer, label_by_head
from pipeline.training.heads.base import OnEpoch, TextClassifier
from pipeline.training.labelled import Labelled, gather
from pipeline.training.policies import Rules
from pipeline.training.recipe import Recipe
from pipeline.training.selection import answered, chosen
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
    run, found = current_labels(store), gather(store, None)
    teacher = _Teacher(store, recipe, run.label_set, text, make_head, encoder)
    names = dict(zip(found.frame["image_id"], _groups(found.frame), strict=True))
    # The rules too: of later rounds they decide what is learnt from.
    fingerprint = digest([train_fingerprint(store, recipe), asdict(rules)])
    first = last = _labels(store, run.table)
    done: list[Round] = []
    table = run.table
    for number in range(1, rounds + 1):
        halves = [
            teacher.teach(_half(found, half), on_head(f"half {half + 1} of round {number}"))
            for half in (0, 1)
        ]
        written = label_by_head(
            store,
            replace(run.question, refine="none"),
            vectors,
            _Crossed(halves, names),
            source=f"self-train:{number}",
            made_of=digest([table, number, fingerprint]),
            learnt_until=answered_until(store, run.label_set),
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
class _Teacher:
    """Fits one head after another by the same recipe."""

    store: Store
    recipe: Recipe
    label_set: LabelSet
    text: TextClassifier
    make_head: MakeHead
    encoder: Callable[[], ImageEncoder]

    def teach(self, found: Labelled, on_epoch: OnEpoch) -> Answer:
        """Fit a head to the images that are kept; return what answers by it."""
        data = read_data(self.store, found, self.recipe, self.label_set, self.encoder)
        head = self.make_head(
            self.recipe.heads[0], self.text, data.train.sizes, self.recipe.settings
        )
        head.fit(data.train, data.valid, on_epoch)
        encoding = data.side.encoding if data.side else None

        def answer(images: pl.DataFrame, wide: Floats) -> Floats:
            side = np.empty((len(wide), 0), np.float32)
            if encoding is not None:
                beside = self.recipe.side
                known = read_side(self.store, beside, self.label_set, self.encoder, images)
                side = known.encode(encoding)
            return head.predict_proba(wide, side)

        return answer


@dataclass(frozen=True)
class _Crossed:
    """Has each image answered by the head that was taught by the other half."""

    halves: Sequence[Answer]  # the one taught by half 0, and by half 1
    names: Mapping[str, str]  # of what an image stays together with, by its id

    def __call__(self, images: pl.DataFrame, wide: Floats) -> Floats:
        """Return probabilities (n, C)."""
        half = np.array([half_of(self.names.get(each, each)) for each in images["image_id"]])
        by_first, by_second = (answer(images, wide) for answer in self.halves)
        return np.where((half == 0)[:, None], by_second, by_first)


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
