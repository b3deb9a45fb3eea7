"""Tasks: which images of a set lie in a store, and what they are asked for.

Shapes: N images, C classes of the set, W names that are asked for, D embedding dimensions.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Bools, Floats, Ints
from tests.benchmarks.quality_sets import Embedded, Labelled, Words
from tests.benchmarks.quality_words import opened

STRANGER = -1  # the true class of an image of no class
ALL = 0  # as a size: no image is left out
REGIMES = (
    "all classes",
    "long tail 1:10",
    "long tail 1:100",
    "half of the classes",
    "3 classes",
    "2 classes",
    "1 class",
    "20 % unknown",
)


@dataclass(frozen=True)
class Plan:
    """What a task is made of, but for chance."""

    source: str  # name of the set
    vocabulary: str  # name of the words; "": the set's own classes
    regime: str
    size: int  # images, or ALL

    @property
    def name(self) -> str:
        """What the table calls it."""
        asked = f" among {self.vocabulary}" if self.vocabulary else ""
        size = f", N = {self.size}" if self.size else ""
        return f"{self.source}{asked}, {self.regime}{size}"

    @property
    def by_chance(self) -> bool:
        """Whether two seeds differ."""
        return bool(self.size) or self.regime != "all classes"


@dataclass(frozen=True)
class Task:
    """A store of images and what it is asked."""

    images: Floats  # (N, D), rows of unit length
    ids: Ints  # (N,) number of the image in its set: who is drawn by two seeds is one image
    true: Ints  # (N,) column of the right name, or STRANGER
    texts: Floats  # (W, D), rows of unit length
    right: Bools  # (C, W) whether a name is right for a class, if kin count
    scale: float


def make_task(plan: Plan, embedded: Embedded, seed: int) -> Task | None:
    """Draw a task; None: there are not more images than are asked for."""
    source = embedded.sets[plan.source]
    # Every plan has a chance of its own, the same on every machine.
    chance = np.random.default_rng([seed, zlib.crc32(repr(plan).encode())])
    rows = drawn(source.true, len(source.classes), plan.regime, chance)
    images, true, ids = source.images[rows], source.true[rows], rows
    if plan.regime == "20 % unknown":
        strangers = embedded.strangers[plan.source]
        count = min(len(rows) // 4, len(strangers))
        met = chance.choice(len(strangers), count, replace=False)
        images = np.concatenate([images, strangers[met]])
        true = np.concatenate([true, np.full(count, STRANGER)])
        ids = np.concatenate([ids, len(source.true) + met])
    if plan.size:
        if len(images) <= plan.size:
            return None
        kept = np.sort(chance.choice(len(images), plan.size, replace=False))
        images, true, ids = images[kept], true[kept], ids[kept]
    words, right = asked_for(source, embedded.words.get(plan.vocabulary))
    return Task(images, ids, true, words.texts, right, source.scale)


def asked_for(source: Labelled, words: Words | None) -> tuple[Words, Bools]:
    """Return the names, the set's own classes first, and which are right for which class."""
    if words is None:
        classes = Words(source.classes, source.texts)
        return classes, np.eye(len(source.classes), dtype=np.bool_)
    return opened(source, words)


def drawn(true: Ints, classes: int, regime: str, chance: np.random.Generator) -> Ints:
    """Return the rows of the images that are there, in the order of their set.

    A long tail of 1:r: classes in a random order, of which the k-th keeps at most n / r^(k/(C-1))
    images, n being those of the largest class.
    """
    order = chance.permutation(classes)
    counts = np.bincount(true, minlength=classes)
    keep = counts.astype(float)
    if regime.startswith("long tail 1:"):
        ratio = float(regime.removeprefix("long tail 1:"))
        keep[order] = counts.max() / ratio ** (np.arange(classes) / (classes - 1))
        keep = np.maximum(keep, 1)
    elif regime.startswith("half"):
        keep[order[classes // 2 :]] = 0
    elif regime.endswith(("class", " classes")) and regime[0].isdigit():
        keep[order[int(regime[0]) :]] = 0
    elif regime not in REGIMES:
        raise ValueError(f"no such regime: {regime!r}")
    rows = []
    for index in range(classes):
        mine = np.flatnonzero(true == index)
        count = min(len(mine), round(keep[index]))
        rows.append(chance.choice(mine, count, replace=False))
    found: Ints = np.sort(np.concatenate(rows))
    return found


def plans(embedded: Embedded) -> list[Plan]:
    """Return every task there is to be drawn; of large vocabularies fewer sizes."""
    found = []
    for source in embedded.sets:
        for regime in REGIMES:
            found += [Plan(source, "", regime, size) for size in (100, 300, 1000, ALL)]
            found += [Plan(source, words, regime, ALL) for words in embedded.words]
        for words in embedded.words:
            found += [Plan(source, words, "all classes", size) for size in (100, 300, 1000)]
    return found
