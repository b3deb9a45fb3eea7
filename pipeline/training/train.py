"""Train: a selection and stored vectors in, fitted heads and an honest comparison out.

No image is read. Beside the heads stand the zero-shot labels and the refined ones. Without a truth
all that can be told is agreement with pseudo-labels, and it is called so.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from pipeline.arrays import Ints
from pipeline.clip.protocol import ImageEncoder
from pipeline.errors import InputError
from pipeline.labels.answers import answered_until
from pipeline.labels.labelling import current_labels
from pipeline.labels.truth import Truth
from pipeline.store import Store
from pipeline.training.comparison import REFINED, ZERO_SHOT, Answers, Line, answers, line
from pipeline.training.data import Data, SideAlone, read_data
from pipeline.training.freshness import train_fingerprint, why_not
from pipeline.training.heads.base import Head, HeadSettings, History, OnEpoch, TextClassifier
from pipeline.training.labelled import Labelled, gather
from pipeline.training.leakage import LeakageFinding
from pipeline.training.models import save_head
from pipeline.training.recipe import Recipe
from pipeline.training.samples import Source

MakeHead = Callable[[str, TextClassifier, tuple[int, int], HeadSettings], Head]
IMAGE_ONLY, SIDE_ONLY = "image-only (mlp)", "side-only (mlp)"


@dataclass(frozen=True)
class TrainSummary:
    """One training."""

    head: str  # path of the saved head's JSON in the store
    kind: str  # of the saved head
    chosen: str  # why that one
    classes: int  # of the label set
    train: int  # samples
    valid: int
    measured_by: str  # "truth", or "agreement" with the pseudo-labels that are held out
    measured_on: int  # images
    comparison: list[Line]
    side: list[str]  # what was known beside the images; empty: nothing
    leakage: LeakageFinding | None
    epochs: list[tuple[float, float]]  # of the saved head: loss in training and in validation
    best_epoch: int | None  # from 1 on; null: it has none
    seconds: float


@dataclass(frozen=True)
class _Fitted:
    head: Head
    history: History
    said: Answers  # of the measured images
    seconds: float


def train(
    store: Store,
    recipe: Recipe,
    text: TextClassifier,
    *,
    make_head: MakeHead,
    encoder: Callable[[], ImageEncoder],
    truth: Truth | None = None,
    on_head: Callable[[str], OnEpoch] = lambda _: lambda _: None,
) -> TrainSummary:
    """Fit heads to the selection, compare them with the labels they learn from, save the best one.

    The best is the most accurate by the truth. Without a truth nothing here can tell, for agreeing
    with pseudo-labels is not being right: the preferred one is saved.

    Args:
        store: the store; it must hold a selection, and its lock must be held.
        recipe: which heads, how, and what is to be used beside the images.
        text: what the texts of the labels in force say.
        make_head: returns an unfitted head, as `heads.registry.make_head` does.
        encoder: called only when side texts are to be embedded that never were.
        truth: measures the heads on the selection's test split; training never sees it.
        on_head: told of each head that is fitted; what it returns is told of each epoch.

    Raises:
        InputError: there is nothing to learn from, a head cannot be fitted to it, or side
            information leaks labels.
    """
    reason = why_not(store)
    if reason:
        raise InputError(f"cannot train: {reason}")
    started = time.monotonic()
    label_set, found = current_labels(store).label_set, gather(store, truth)
    data = read_data(store, found, recipe, label_set, encoder)
    bench = _Bench(data, recipe, text, make_head, on_head)
    fitted = {kind: bench.fit(kind) for kind in recipe.heads}
    right = data.measured.labels
    lines = [*_labels(found, right)]
    lines += [line(kind, each.said, right, each.seconds) for kind, each in fitted.items()]
    if data.side is not None:
        lines += bench.apart(with_images="mlp" not in fitted)
    kind, why = _choose(fitted, right, by_truth=found.by_truth)
    best, measured_by = fitted[kind], "truth" if found.by_truth else "agreement"
    about: dict[str, object] = {
        "classes": found.classes,
        "sizes": data.train.sizes,
        "recipe": asdict(recipe),
        "side": data.side.encoding.as_json() if data.side else None,
        "label_set": label_set.model_dump(mode="json"),
        "learnt_until": answered_until(store, label_set),
        "encoder": asdict(identity) if (identity := store.identity()) else None,
        "measured_by": measured_by,
        "comparison": [asdict(each) for each in lines],
        "leakage": asdict(data.side.leakage) if data.side else None,
        "losses": [asdict(epoch) for epoch in best.history.epochs],
    }
    return TrainSummary(
        head=save_head(store, best.head, about, train_fingerprint(store, recipe)),
        kind=kind,
        chosen=why,
        classes=len(found.classes),
        train=len(data.train),
        valid=len(data.valid),
        measured_by=measured_by,
        measured_on=len(right),
        comparison=lines,
        side=data.side.told if data.side else [],
        leakage=data.side.leakage if data.side else None,
        epochs=[(epoch.train_loss, epoch.valid_loss) for epoch in best.history.epochs],
        best_epoch=best.history.best_epoch + 1 if best.history.epochs else None,
        seconds=round(time.monotonic() - started, 3),
    )


@dataclass(frozen=True)
class _Bench:
    """Where heads are fitted to the same samples, one after another, and asked the same."""

    data: Data
    recipe: Recipe
    text: TextClassifier
    make_head: MakeHead
    on_head: Callable[[str], OnEpoch]

    def fit(self, kind: str, named: str = "", *, side_alone: bool = False) -> _Fitted:
        """Fit a head of a kind; `side_alone`: it sees the side information as if it were images."""
        data = self.data
        splits: list[Source] = [data.train, data.valid, data.measured]
        if side_alone:
            splits = [SideAlone(split) for split in splits]
        train, valid, measured = splits
        head = self.make_head(kind, self.text, train.sizes, self.recipe.settings)
        begun = time.monotonic()
        history = head.fit(train, valid, self.on_head(named or kind))
        took = round(time.monotonic() - begun, 3)
        return _Fitted(head, history, _ask(head, measured), took)

    def apart(self, *, with_images: bool) -> list[Line]:
        """Compare what the image and the side information say each by itself."""
        found = {}
        if with_images:
            found[IMAGE_ONLY] = self.fit("mlp", IMAGE_ONLY)
        found[SIDE_ONLY] = self.fit("mlp", SIDE_ONLY, side_alone=True)
        right = self.data.measured.labels
        return [line(name, each.said, right, each.seconds) for name, each in found.items()]


def _labels(found: Labelled, right: Ints) -> list[Line]:
    """Compare the labels that are there already: the model's own, and the refined ones."""
    rows, lines = found.measured(), []
    for method, label, score in (
        (ZERO_SHOT, "naive_label", "naive_score"),
        (REFINED, "top_label", "top_score"),
    ):
        if method == REFINED and not found.by_truth:
            continue  # they are what is measured by
        scores = found.frame[score][rows].to_numpy().astype(np.float32)
        lines.append(line(method, Answers(found.index_of(label, rows), scores), right, None))
    return lines


def _ask(head: Head, measured: Source) -> Answers:
    """Return what a head says of samples, a batch at a time."""
    labels, scores = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for batch in measured.batches(8192):
        said = answers(head.predict_proba(batch.images, batch.side))
        labels.append(said.labels)
        scores.append(said.scores)
    return Answers(np.concatenate(labels), np.concatenate(scores))


def _choose(fitted: dict[str, _Fitted], right: Ints, *, by_truth: bool) -> tuple[str, str]:
    """Return the kind that is saved, and why; of equals the preferred one."""
    kinds = list(fitted)
    if len(kinds) == 1:
        return kinds[0], "it is the only one"
    if not by_truth:
        return kinds[0], "it is the preferred one: without a truth nothing tells which is best"
    hits = {kind: int((each.said.labels == right).sum()) for kind, each in fitted.items()}
    return max(kinds, key=lambda kind: hits[kind]), "it is right most often on the test split"
