"""Upkeep of the approximate index: built, added to, tuned and trained anew as the store changes.

Shapes: N rows.
"""

import logging
import uuid
from dataclasses import replace

import numpy as np

from pipeline.arrays import Bools
from pipeline.search.approximate import Approximate, build
from pipeline.search.choosing import Choice, IndexSettings
from pipeline.search.exact import ExactRows
from pipeline.search.files import read_faiss, write_faiss
from pipeline.search.layered import HeldLayer, Layer
from pipeline.search.tuning import Level, falls_short, self_test, tune
from pipeline.store import Store

_UNCOVERED = 0.05  # share of images beside the index, from which they are added to it
_TOMBSTONES = 0.2  # share of its rows whose images are gone, from which it is trained anew
_GROWTH = 4  # times as many rows as it was trained on: it has half the cells that it should
_WORTH = 1.2  # times as many: training again may find what tuning cannot

logger = logging.getLogger(__name__)


def read_layer(store: Store, exact: ExactRows, held: HeldLayer, *, mapped: bool = True) -> Layer:
    """Read the approximate index; raises as `files.read_faiss`."""
    index = read_faiss(store, held.file, held.faiss, mapped=mapped)
    return Layer.over(exact, Approximate(held.kind, index), held.levels)


def keep_up(
    store: Store,
    exact: ExactRows,
    live: Bools,
    choice: Choice,
    settings: IndexSettings,
    held: HeldLayer | None,
) -> HeldLayer:
    """Bring the approximate index up to the store, and write it where it changed.

    Args:
        store: the store; its lock must be held.
        exact: all vectors.
        live: (N,) marks the images that are there.
        choice: the kind that it is to be.
        settings: what was asked for.
        held: the one in force.
    """
    layer = read_layer(store, exact, held) if held and _may_stay(held, choice, settings) else None
    if held is None or layer is None:
        return _trained(store, exact, live, choice, settings, "there is none of this kind yet")
    if why := _outlived(layer, held, live):
        return _trained(store, exact, live, choice, settings, why)
    beside = np.flatnonzero(live & ~layer.covered)
    if len(beside) > _UNCOVERED * live.sum():
        layer = read_layer(store, exact, held, mapped=False)
        layer.approximate.add(exact, beside)
        held = _written(store, layer.approximate, held)
        logger.info("%s vectors are added to the %s index", f"{len(beside):,}", held.kind)
    return _tested(store, exact, live, choice, settings, held, layer.approximate)


def _tested(
    store: Store,
    exact: ExactRows,
    live: Bools,
    choice: Choice,
    settings: IndexSettings,
    held: HeldLayer,
    approximate: Approximate,
) -> HeldLayer:
    """Tune the index again where it misses too much, and train it again where that is no cure."""
    test = self_test(exact, approximate, held.levels[0])
    raised = settings.recall > held.target and held.recall < settings.recall
    if not raised and not falls_short(test, min(settings.recall, held.recall)):
        return replace(held, target=settings.recall)
    levels = tune(exact, approximate, settings.recall)
    told = f"recall at 10 is {test.recall:.3f}, the target {settings.recall:g}"
    if levels[0].recall < settings.recall and len(approximate) >= _WORTH * held.trained_on:
        return _trained(store, exact, live, choice, settings, told)
    logger.info("the %s index is tuned again: %s", held.kind, told)
    _warn(levels[0], settings, held.kind)
    return replace(held, levels=levels, target=settings.recall)


def _may_stay(held: HeldLayer, choice: Choice, settings: IndexSettings) -> bool:
    if held.kind != choice.kind:
        return False
    # Codes are a little shorter with every drop: those there stay as long as they fit.
    shorter = choice.code_bytes < held.code_bytes and held.bytes <= settings.memory_mb << 20
    return shorter or held.code_bytes == choice.code_bytes


def _outlived(layer: Layer, held: HeldLayer, live: Bools) -> str | None:
    """Return why the index must be trained anew; None where it need not."""
    gone = int((layer.covered & ~live).sum())
    if gone > _TOMBSTONES * held.rows:
        return f"{gone:,} of its {held.rows:,} images are gone"
    if live.sum() >= _GROWTH * held.trained_on:
        return f"{int(live.sum()):,} images are there, it was trained on {held.trained_on:,}"
    return None


def _trained(
    store: Store, exact: ExactRows, live: Bools, choice: Choice, settings: IndexSettings, why: str
) -> HeldLayer:
    logger.info("the %s index is trained: %s", choice.kind, why)
    approximate = build(exact, np.flatnonzero(live), choice)
    levels = tune(exact, approximate, settings.recall)
    _warn(levels[0], settings, choice.kind)
    new = HeldLayer(
        kind=choice.kind,
        name="",
        faiss="",
        rows=0,
        trained_on=len(approximate),
        code_bytes=choice.code_bytes,
        bytes=0,
        target=settings.recall,
        levels=levels,
    )
    return _written(store, approximate, new)


def _written(store: Store, approximate: Approximate, held: HeldLayer) -> HeldLayer:
    # A name of its own each time: who searches keeps the file that was there.
    new = replace(held, name=f"{held.kind}-{uuid.uuid4().hex[:16]}", rows=len(approximate))
    checksum, size = write_faiss(store, new.file, approximate.index)
    return replace(new, faiss=checksum, bytes=size)


def _warn(level: Level, settings: IndexSettings, kind: str) -> None:
    if level.recall < settings.recall:
        logger.warning(
            "recall at 10 of the %s index is %.3f, index.recall asks for %g: raise "
            "index.memory_mb for longer codes or an exact index, or lower index.recall",
            kind,
            level.recall,
            settings.recall,
        )
