"""Samples whose answer is known, and settings to fit heads to them, for the tests of heads."""

import numpy as np

from pipeline.arrays import Floats, unit_rows
from pipeline.training.heads.base import Epoch, Head, HeadSettings, TextClassifier
from pipeline.training.samples import Samples

SETTINGS = HeadSettings(
    loss="cross-entropy",
    label_smoothing=0.0,
    soft_targets=False,
    mixup=0.0,
    pull=1e-3,
    hidden=32,
    dropout=0.0,
    fusion="concat",
    learning_rate=1e-2,
    weight_decay=0.0,
    batch_size=32,
    max_epochs=60,
    patience=60,
    seed=0,
    device="cpu",
)
# Class 0 along the first axis, and so on: they tell the classes of `blobs`.
TEXT = TextClassifier(("a", "b", "c"), np.eye(3, 8, dtype=np.float32), 10.0)


def blobs(n: int, seed: int, side: bool = False) -> Samples:
    """Make 3 separable classes in 8 dimensions; with `side`, only the side vectors tell."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    clues = unit_rows(np.eye(8)[labels] + rng.normal(size=(n, 8)) * 0.05)
    noise = unit_rows(rng.normal(size=(n, 8)))
    nothing = np.empty((n, 0), np.float32)
    images, side_vectors = (noise, clues) if side else (clues, nothing)
    return Samples(images, side_vectors, labels, np.ones(n, np.float32))


def accuracy(head: Head, samples: Samples) -> float:
    """Return the share of samples whose likeliest class is their label."""
    answers = head.predict_proba(samples.images, samples.side).argmax(axis=1)
    return float((answers == samples.labels).mean())


def random_rows(n: int, width: int, seed: int) -> Floats:
    """Return random rows (n, width)."""
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def unheard(epoch: Epoch) -> None:
    """Tell nobody of an epoch."""
