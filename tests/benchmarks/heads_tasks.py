"""Tasks for heads: which images teach, which are asked, and what they are asked for.

Shapes: N images, W names that are asked for, D embedding dimensions.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Bools, Floats, Ints
from tests.benchmarks.quality_sets import Embedded, Labelled

REGIMES = ("all classes", "half of the classes", "long tail 1:10", "open vocabulary")
_STRANGERS = 40  # other names at least, in an open vocabulary
_NEAR = 0.98  # of a test image to one that teaches: it is left out
_SAME = 0.97  # of two texts: they ask for the same
_TWIN_BLOCK = 2048


@dataclass(frozen=True)
class Task:
    """Images that teach by their pseudo-labels, and others whose truth is asked for."""

    train: Floats  # (N, D), rows of unit length
    train_true: Ints  # (N,) columns; for the ceiling and the audit only
    test: Floats  # (M, D)
    test_true: Ints  # (M,)
    names: tuple[str, ...]  # W
    texts: Floats  # (W, D), rows of unit length
    scale: float


def make_task(name: str, regime: str, embedded: Embedded, seed: int) -> Task:
    """Draw a task; half of a set's images teach, and 3,000 at most.

    Args:
        name: of the set.
        regime: of REGIMES.
        embedded: the sets of one model.
        seed: of the draw.
    """
    source = embedded.sets[name]
    chance = np.random.default_rng([seed, zlib.crc32(f"{name} {regime}".encode())])
    train, test = _halves(source, chance)
    names, texts = source.classes, source.texts
    if regime == "half of the classes":
        there = chance.permutation(len(names))[: max(2, len(names) // 2)]
        train = train[np.isin(source.true[train], there)]
        test = test[np.isin(source.true[test], there)]
    if regime == "long tail 1:10":
        train = train[_tail(source.true[train], len(names), chance)]
    if regime == "open vocabulary":
        names, texts = _opened(source, embedded, chance)
    apart = _apart(source.images[test], source.images[train])
    return Task(
        source.images[train],
        source.true[train],
        source.images[test][apart],
        source.true[test][apart],
        names,
        texts,
        source.scale,
    )


def _halves(source: Labelled, chance: np.random.Generator) -> tuple[Ints, Ints]:
    order = chance.permutation(len(source.true))
    half = min(3000, len(order) // 2)
    return order[:half], order[half:]


def _tail(true: Ints, classes: int, chance: np.random.Generator) -> Ints:
    """Return places, of which the last class has a tenth of what the first one has."""
    kept = []
    for rank, index in enumerate(chance.permutation(classes)):
        mine = np.flatnonzero(true == index)
        kept.append(mine[: max(1, round(len(mine) * 10 ** (-rank / max(1, classes - 1))))])
    return np.sort(np.concatenate(kept))


def _opened(
    source: Labelled, embedded: Embedded, chance: np.random.Generator
) -> tuple[tuple[str, ...], Floats]:
    """Return the set's names and twice as many others, which mean none of its classes."""
    words = max(embedded.words.values(), key=lambda each: len(each.names))
    other = np.flatnonzero((words.texts @ source.texts.T).max(axis=1) < _SAME)
    drawn = chance.permutation(other)[: max(_STRANGERS, 2 * len(source.classes))]
    names = (*source.classes, *(words.names[row] for row in drawn))
    return names, np.concatenate([source.texts, words.texts[drawn]])


def _apart(images: Floats, others: Floats) -> Bools:
    """Tell which images have no near-duplicate among others."""
    apart = np.ones(len(images), bool)
    for at in range(0, len(images), _TWIN_BLOCK):
        rows = slice(at, at + _TWIN_BLOCK)
        apart[rows] = (images[rows] @ others.T).max(axis=1) < _NEAR
    return apart
