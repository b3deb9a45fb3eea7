"""Images with a truth and vectors of OpenAI's CLIP ViT-B/32: what `label_quality` asks about.

Shapes: N images, C classes, D embedding dimensions.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from pipeline.arrays import Floats, Ints, unit_rows

OPENAI_SCALE = 100.0  # exp(logit_scale) of that model


@dataclass(frozen=True)
class Labelled:
    """A set of images whose classes are known, and the texts that ask for these."""

    name: str
    images: Floats  # (N, D), rows of unit length
    true: Ints  # (N,) index of the class
    classes: tuple[str, ...]  # C
    texts: Floats  # (C, D), rows of unit length
    scale: float


@dataclass(frozen=True)
class Words:
    """Names that images may be asked for."""

    names: tuple[str, ...]
    texts: Floats  # (len(names), D), rows of unit length


@dataclass(frozen=True)
class Embedded:
    """All that was embedded by one model."""

    sets: dict[str, Labelled]
    words: dict[str, Words]  # vocabularies, for asking openly
    strangers: dict[str, Floats]  # (n, D) images of no class of the set of that name


@cache
def openai(folder: Path) -> Embedded:
    """Read the vectors of CIFAR-10, Food-101 (10 classes) and CLIPIS, and texts of Detic's.

    Food's paella has no text of its own: its images are left out of the set.
    """
    cifar, food = np.load(folder / "cifar10_test500.npz"), np.load(folder / "food10.npz")
    first = Labelled(
        name="CIFAR-10",
        images=unit_rows(cifar["image_embeddings"]),
        true=cifar["labels"],
        classes=tuple(map(str, cifar["text_names"])),
        texts=unit_rows(cifar["text_embeddings"]),
        scale=OPENAI_SCALE,
    )
    asked = np.flatnonzero(np.isfinite(food["text_embeddings"]).all(axis=1))
    there = np.isin(food["labels"], asked)
    second = Labelled(
        name="Food",
        images=unit_rows(food["image_embeddings"][there]),
        true=np.searchsorted(asked, food["labels"][there]),
        classes=tuple(str(food["text_names"][index]) for index in asked),
        texts=unit_rows(food["text_embeddings"][asked]),
        scale=OPENAI_SCALE,
    )
    sets = [first, second, joined("joint", first, second)]
    detic, others = np.load(folder / "detic_text.npz"), np.load(folder / "clipis3045.npz")
    strangers = unit_rows(others["image_embeddings"])
    words = {
        title: Words(tuple(map(str, detic[f"{key}_names"])), unit_rows(detic[f"{key}_text"]))
        for title, key in (
            ("Objects365", "objects365"),
            ("OpenImages", "openimages500"),
            ("LVIS", "lvis1203"),
        )
    }
    return Embedded(
        {each.name: each for each in sets}, words, {each.name: strangers for each in sets}
    )


def joined(name: str, first: Labelled, second: Labelled) -> Labelled:
    """Return both sets as one, whose classes are those of the first, then those of the second."""
    return Labelled(
        name=name,
        images=np.concatenate([first.images, second.images]),
        true=np.concatenate([first.true, second.true + len(first.classes)]),
        classes=first.classes + second.classes,
        texts=np.concatenate([first.texts, second.texts]),
        scale=first.scale,
    )


def paella(folder: Path) -> Floats:
    """Return Food's images of the one class that has no text: strangers that look familiar."""
    food = np.load(folder / "food10.npz")
    nameless = np.flatnonzero(~np.isfinite(food["text_embeddings"]).all(axis=1))
    return unit_rows(food["image_embeddings"][np.isin(food["labels"], nameless)])
