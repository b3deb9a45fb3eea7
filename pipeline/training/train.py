"""Train: a selection and stored vectors in, a fitted head and an honest comparison out.

No image is read. Beside the head stand two baselines: the zero-shot labels themselves, and logistic
regression on the same selection. Without a truth all that can be told is agreement with
pseudo-labels, and it is called so.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression

from pipeline.arrays import Floats, Ints
from pipeline.catalog import present_images
from pipeline.clip.protocol import ImageEncoder
from pipeline.errors import InputError, StoreError
from pipeline.labels.labelling import current_labels
from pipeline.labels.truth import Truth
from pipeline.store import Store
from pipeline.training import leakage
from pipeline.training.freshness import train_fingerprint, why_not
from pipeline.training.heads.mlp import MlpSettings, fit_logistic, fit_mlp
from pipeline.training.models import save_head
from pipeline.training.samples import Samples
from pipeline.training.selection import TABLE
from pipeline.training.side.encoding import SideEncoding
from pipeline.training.side.information import SideInformation, read_side
from pipeline.training.side.settings import SideSettings
from pipeline.vectors import iterate_vectors

ZERO_SHOT = "zero-shot labels"


@dataclass(frozen=True)
class Comparison:
    """How one way of labelling did; shares from 0 to 1, null where there is nothing to compare."""

    method: str
    agreement: float | None  # with the pseudo-labels of the validation split
    accuracy: float | None  # with the truth, on every image that has one
    accuracy_unseen: float | None  # the same, on images that are in neither split


@dataclass(frozen=True)
class TrainSummary:
    """One training."""

    head: str  # path of its JSON in the store
    classes: int
    train: int  # samples
    valid: int
    epochs: int
    best_epoch: int
    truth: int  # images with a true label
    truth_unseen: int  # those of them in neither split
    comparison: list[Comparison]
    side: list[str]  # what was used beside the images; empty: nothing
    leakage: leakage.LeakageFinding | None  # null: there is nothing beside the images
    seconds: float


def train(
    store: Store,
    *,
    settings: MlpSettings,
    side: SideSettings,
    encoder: Callable[[], ImageEncoder],
    allow_leakage: bool = False,
    truth: Truth | None = None,
) -> TrainSummary:
    """Fit the multimodal MLP to the selection, compare it with two baselines and save it.

    Args:
        store: the store; it must hold a selection.
        settings: of the MLP.
        side: what is known beside the images.
        encoder: called only when side texts are to be embedded.
        allow_leakage: go on where side information says nearly as much as the image.
        truth: for the comparison only; training never sees it.

    Raises:
        InputError: there is nothing to learn from, or side information leaks labels.
    """
    reason = why_not(store)
    if reason:
        raise InputError(f"cannot train: {reason}")
    started = time.monotonic()
    rows = _gather(store)
    label_set = current_labels(store).label_set
    beside = read_side(store, side, label_set, encoder, rows.frame)
    encoding = beside.fit(np.flatnonzero((rows.frame["split"] == "train").fill_null(False)))
    finding = _look_for_leaks(rows, beside, encoding) if side else None
    if finding:
        finding.require(allow=allow_leakage)
    numbers = beside.encode(encoding)
    kept = rows.frame.filter("kept")
    classes = [name for name in label_set.names if name in set(kept["label"])]
    training, validation = (_samples(rows, numbers, classes, split) for split in ("train", "valid"))
    fitted = fit_mlp(training, validation, classes=len(classes), settings=settings)
    logistic = fit_logistic(training)
    answers = {
        ZERO_SHOT: rows.frame["top_label"].to_numpy(),
        "logistic regression": _named(logistic, rows.vectors, classes),
        "MLP": np.array(classes)[fitted.head.predict_proba(rows.vectors, numbers).argmax(axis=1)],
    }
    comparison, known, unseen = _compare(rows.frame, answers, truth)
    about: dict[str, object] = {
        "classes": classes,
        "sizes": fitted.head.sizes,
        "side": encoding.as_json(),
        "leakage": asdict(finding) if finding else None,
        "settings": asdict(settings),
        "label_set": label_set.model_dump(mode="json"),
        "encoder": asdict(identity) if (identity := store.identity()) else None,
        "comparison": [asdict(line) for line in comparison],
        "losses": [asdict(epoch) for epoch in fitted.epochs],
    }
    path = save_head(store, fitted.head, about, train_fingerprint(store, asdict(settings), side))
    return TrainSummary(
        head=path,
        classes=len(classes),
        train=len(training),
        valid=len(validation),
        epochs=len(fitted.epochs),
        best_epoch=fitted.best_epoch + 1,
        truth=known,
        truth_unseen=unseen,
        comparison=comparison,
        side=beside.told(),
        leakage=finding,
        seconds=round(time.monotonic() - started, 3),
    )


@dataclass(frozen=True)
class _Rows:
    """Every present, labelled image: a frame and the matrix of its vectors, row by row."""

    frame: pl.DataFrame
    vectors: Floats  # (N, D)


def _gather(store: Store) -> _Rows:
    run = current_labels(store)
    labels = store.read(run.table, ["image_id", "topk_labels"]).unique("image_id")
    labels = labels.select("image_id", top_label=pl.col("topk_labels").list.first())
    chosen = ["image_id", "label", "weight", "split", "duplicate_group", "kept"]
    selection = store.read(TABLE, chosen)
    frame = (
        present_images(store)
        .join(labels, on="image_id", how="inner", maintain_order="left")
        .join(selection, on="image_id", how="left", maintain_order="left")
        .with_columns(pl.col("kept").fill_null(False))
    )
    place = {image_id: row for row, image_id in enumerate(frame["image_id"])}
    identity = store.identity()
    vectors = np.zeros((len(frame), identity.dimension if identity else 0), np.float32)
    for _, ids, part in iterate_vectors(store):
        wanted = [(place[i], row) for row, i in enumerate(ids) if i in place]
        if wanted:
            targets, sources = zip(*wanted, strict=True)
            vectors[list(targets)] = part[list(sources)]
    bare = int((~vectors.any(axis=1)).sum())
    if bare:
        raise StoreError(
            f"{store.location}: {bare} labelled images have no vector: their file is gone from "
            "embeddings/. `pseudolabel verify`, then `pseudolabel run`, makes them again"
        )
    if not frame["kept"].any():
        raise InputError(
            f"{store.location}: none of the selected images is there and labelled: "
            "`pseudolabel run` first"
        )
    return _Rows(frame, vectors)


def _look_for_leaks(
    rows: _Rows, side: SideInformation, encoding: SideEncoding
) -> leakage.LeakageFinding:
    # An image without side information would hide what that of the others gives away.
    kept = rows.frame.with_row_index("row").filter(pl.col("kept") & pl.Series(side.known()))
    some = leakage.draw(kept["image_id"].to_list(), kept["label"].to_list())
    kept = kept[some]
    at = kept["row"].to_numpy().astype(np.int64)
    names, labels = np.unique(kept["label"].to_numpy(), return_inverse=True)
    groups = kept.select(pl.coalesce("duplicate_group", "image_id")).to_series().rank("dense")
    drawn = leakage.Drawn(
        labels=labels,
        groups=groups.to_numpy().astype(np.int64),
        images=rows.vectors[at],
        side=side.encode(encoding, at),
        texts=None if side.texts is None else [side.texts[row] for row in at],
    )
    return leakage.find_leakage(drawn, names.tolist(), encoding)


def _samples(rows: _Rows, side: Floats, classes: list[str], split: str) -> Samples:
    chosen = (rows.frame["split"] == split).fill_null(False).to_numpy()
    part = rows.frame.filter(chosen)
    number = {name: index for index, name in enumerate(classes)}
    labels: Ints = np.array([number[name] for name in part["label"]], np.int64)
    weights = part["weight"].to_numpy().astype(np.float32)
    return Samples(rows.vectors[chosen], side[chosen], labels, np.maximum(weights, 1e-6))


def _named(model: LogisticRegression, vectors: Floats, classes: list[str]) -> np.ndarray:
    named: np.ndarray = np.array(classes)[model.predict(vectors)]
    return named


def _compare(
    frame: pl.DataFrame, answers: dict[str, np.ndarray], truth: Truth | None
) -> tuple[list[Comparison], int, int]:
    """Return a line per method, the number of images with truth, and of unseen ones."""
    valid = (frame["split"] == "valid").fill_null(False).to_numpy()
    pseudo = frame["label"].to_numpy()
    known = truth.labels if truth else {}
    right = np.array([known.get(image_id) for image_id in frame["image_id"]], object)
    has_truth = np.array([label is not None for label in right], bool)
    unseen = has_truth & ~frame["kept"].to_numpy()
    lines = [
        Comparison(
            method=method,
            # The zero-shot labels are the pseudo-labels: agreeing with themselves says nothing.
            agreement=None if method == ZERO_SHOT else _share(said, pseudo, valid),
            accuracy=_share(said, right, has_truth),
            accuracy_unseen=_share(said, right, unseen),
        )
        for method, said in answers.items()
    ]
    return lines, int(has_truth.sum()), int(unseen.sum())


def _share(said: np.ndarray, right: np.ndarray, where: np.ndarray) -> float | None:
    return float(np.mean(said[where] == right[where])) if where.any() else None
