"""The samples of one training: three splits, with what is known beside the images.

Shapes: N images, n of a split, D image dimensions, S side dimensions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.arrays import Floats, Ints
from pipeline.clip.protocol import ImageEncoder
from pipeline.label_set import LabelSet
from pipeline.store import Store
from pipeline.training.labelled import Labelled, soft_targets, vectors_of
from pipeline.training.leakage import Drawn, LeakageFinding, draw, find_leakage
from pipeline.training.recipe import Recipe
from pipeline.training.samples import Samples, Source
from pipeline.training.selection import ANSWER_WEIGHT
from pipeline.training.side.encoding import SideEncoding
from pipeline.training.side.information import read_side
from pipeline.training.streaming import StoredSamples

_IN_MEMORY = 1 << 30  # bytes of vectors to train on; more are read anew for each epoch
_LEAST_WEIGHT = 1e-6


@dataclass(frozen=True)
class Side:
    """What is known beside the images."""

    encoding: SideEncoding
    told: list[str]  # for people: what is taken, how much of it there is
    leakage: LeakageFinding


@dataclass(frozen=True)
class Data:
    """What heads learn from, stop by and are measured on."""

    train: Source
    valid: Samples
    measured: Samples  # with the right labels, which no head is shown
    side: Side | None


class SideAlone:
    """A source whose images are the side vectors of another one: what a side-only head sees."""

    def __init__(self, source: Source) -> None:
        """Take the source that has both."""
        self._source = source

    def __len__(self) -> int:
        """Return N."""
        return len(self._source)

    @property
    def sizes(self) -> tuple[int, int]:
        """S, and nothing beside it."""
        return self._source.sizes[1], 0

    def batches(self, size: int, seed: int | None = None) -> Iterator[Samples]:
        """Yield every sample once, as `Source` says."""
        for batch in self._source.batches(size, seed):
            nothing = batch.side[:, :0]
            yield Samples(batch.side, nothing, batch.labels, batch.weights, batch.soft)


def read_data(
    store: Store,
    found: Labelled,
    recipe: Recipe,
    label_set: LabelSet,
    encoder: Callable[[], ImageEncoder],
) -> Data:
    """Bring the splits together, and look for labels that leak through side information.

    Args:
        store: where the vectors are; its lock must be held.
        found: who is in which split.
        recipe: what is wanted beside the images, and whether soft targets are.
        label_set: of the labels in force.
        encoder: called only when side texts are to be embedded that never were.

    Raises:
        InputError: side information cannot be used, or it leaks labels.
        StoreError: an image has no vector.
    """
    train, valid, measured = found.rows("train"), found.rows("valid"), found.measured()
    info = encoding = None
    seen, groups = train[:0], train[:0]
    if recipe.side:
        images = found.frame.select("image_id", "path")
        info = read_side(store, recipe.side, label_set, encoder, images)
        encoding = info.fit(train)
        seen, groups = _drawn(found, train)
    identity = store.identity()
    width = identity.dimension if identity else 0
    in_memory = len(train) * width * np.dtype(np.float32).itemsize <= _IN_MEMORY
    lists = (train if in_memory else train[:0], valid, measured, seen)
    of_train, of_valid, of_measured, of_seen = vectors_of(
        store, *(found.frame["image_id"][rows].to_list() for rows in lists)
    )

    def beside(rows: Ints) -> Floats:
        if info is None or encoding is None:
            return np.empty((len(rows), 0), np.float32)
        return info.encode(encoding, rows)

    side = None
    if info is not None and encoding is not None:
        texts = None if info.texts is None else [info.texts[row] for row in seen]
        labels = found.index_of("label", seen)
        drawn = Drawn(labels, groups, images=of_seen, side=beside(seen), texts=texts)
        leakage = find_leakage(drawn, found.classes, encoding)
        leakage.require(allow=recipe.allow_leakage)
        side = Side(encoding, info.told(), leakage)
    sampler = _Sampler(found, soft=recipe.settings.soft_targets)
    return Data(
        sampler.samples(train, of_train, beside(train), "label")
        if in_memory
        else sampler.stored(store, train, beside(train)),
        sampler.samples(valid, of_valid, beside(valid), "label"),
        sampler.samples(measured, of_measured, beside(measured), "right"),
        side,
    )


def _drawn(found: Labelled, train: Ints) -> tuple[Ints, Ints]:
    """Return the rows that the leakage guard looks at, and numbers of what stays together."""
    part = found.frame[train]
    names = part.select(pl.coalesce("split_group", "image_id")).to_series()
    groups = names.rank("dense").to_numpy().astype(np.int64)
    rows = draw(part["image_id"].to_list(), part["label"].to_list(), groups)
    return train[rows], groups[rows]


class _Sampler:
    """Rows of the frame to samples."""

    def __init__(self, found: Labelled, *, soft: bool) -> None:
        self._found, self._soft = found, soft

    def stored(self, store: Store, rows: Ints, side: Floats) -> Source:
        """Return the samples of some rows, whose vectors stay in the store."""
        ids = self._found.frame["image_id"][rows].to_list()
        labels, weights = self._found.index_of("label", rows), self._weights(rows)
        soft = self._targets(rows) if self._soft else None
        return StoredSamples(store, ids, labels, weights, side, soft)

    def samples(self, rows: Ints, vectors: Floats, side: Floats, labels: str) -> Samples:
        """Return the samples of some rows, in memory; `labels` is the column they have."""
        soft = self._targets(rows) if self._soft and labels == "label" else None
        return Samples(vectors, side, self._found.index_of(labels, rows), self._weights(rows), soft)

    def _targets(self, rows: Ints) -> Floats:
        """Return the shares of the classes (n, C): what a person named is no question of shares."""
        soft = soft_targets(self._found.frame[rows], self._found.classes)
        named = np.flatnonzero(self._weights(rows) == ANSWER_WEIGHT)
        labels = self._found.index_of("label", rows[named])
        soft[named] = 0.0
        soft[named, labels] = 1.0
        return soft

    def _weights(self, rows: Ints) -> Floats:
        weights = self._found.frame["weight"][rows].fill_null(0.0).to_numpy().astype(np.float32)
        least: Floats = np.maximum(weights, np.float32(_LEAST_WEIGHT))
        return least
