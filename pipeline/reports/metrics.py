"""Metrics of labels against a truth. Lists of labels in, numbers out; no file is touched."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassMetrics:
    """How one class did; shares from 0 to 1."""

    label: str
    images: int  # that truly are of this class
    recall: float | None  # null: the truth has none
    precision: float | None  # null: nothing was given this label


@dataclass(frozen=True)
class Metrics:
    """How a labelling did against a truth; shares from 0 to 1."""

    images: int
    accuracy: float  # of the top label, abstained or not
    top_k_accuracy: float  # the true label is among those kept
    macro_recall: float  # mean over the classes that the truth has
    threshold: float
    coverage: float  # share of images labelled with at least this confidence
    accuracy_above: float | None  # of those; null: there are none
    per_class: list[ClassMetrics]


def measure(
    true: Sequence[str],
    ranked: Sequence[Sequence[str]],
    confidence: Sequence[float],
    labelled: Sequence[bool],
    *,
    classes: Sequence[str],
    threshold: float,
) -> Metrics:
    """Compare labels with the truth; element i of every argument belongs to image i.

    Args:
        true: the true label.
        ranked: the labels kept, likeliest first.
        confidence: of the likeliest, 0 to 1.
        labelled: whether the image has a label, rather than having been abstained on.
        classes: every label there is, in the order to report.
        threshold: coverage counts labelled images of at least this confidence.

    Raises:
        ValueError: there is no image.

    >>> measure(["a", "b"], [["a"], ["a"]], [0.9, 0.4], [True] * 2, classes="ab", threshold=0.5)
    ... # doctest: +ELLIPSIS
    Metrics(images=2, accuracy=0.5, top_k_accuracy=0.5, macro_recall=0.5, threshold=0.5, ...
    """
    if not true:
        raise ValueError("no image to measure")
    said = [labels[0] for labels in ranked]
    right = [a == b for a, b in zip(said, true, strict=True)]
    # In single precision, as confidences are stored: 0.7 there is a little less than 0.7 here.
    reached = np.asarray(confidence, np.float32) >= np.float32(threshold)
    above = [ok for ok, high, given in zip(right, reached, labelled, strict=True) if given and high]
    per_class = [_one_class(name, true, said) for name in classes]
    recalls = [entry.recall for entry in per_class if entry.recall is not None]
    return Metrics(
        images=len(true),
        accuracy=sum(right) / len(true),
        top_k_accuracy=sum(t in r for t, r in zip(true, ranked, strict=True)) / len(true),
        macro_recall=sum(recalls) / len(recalls),
        threshold=threshold,
        coverage=len(above) / len(true),
        accuracy_above=sum(above) / len(above) if above else None,
        per_class=per_class,
    )


def _one_class(name: str, true: Sequence[str], said: Sequence[str]) -> ClassMetrics:
    both = sum(t == s == name for t, s in zip(true, said, strict=True))
    relevant, given = list(true).count(name), list(said).count(name)
    return ClassMetrics(
        label=name,
        images=relevant,
        recall=both / relevant if relevant else None,
        precision=both / given if given else None,
    )
