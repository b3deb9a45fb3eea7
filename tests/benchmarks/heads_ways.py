"""Ways to learn from pseudo-labels, with the library's own labels, policies and heads.

Shapes: N images that teach, W names.
"""

from dataclasses import replace

import numpy as np
import polars as pl

from flows.stale import recipe, select_settings
from pipeline.arrays import Floats, Ints
from pipeline.config import Config
from pipeline.labels.methods import USUAL
from pipeline.labels.refinement import FEWEST, fit, vote_together
from pipeline.labels.scoring import score
from pipeline.training.heads.base import Epoch, TextClassifier
from pipeline.training.heads.logistic import LogisticHead
from pipeline.training.heads.registry import make_head
from pipeline.training.policies import Rules, choose
from pipeline.training.samples import Samples
from pipeline.training.selection import ANSWER_WEIGHT
from tests.benchmarks.heads_tasks import Task
from tests.benchmarks.quality_methods import nearest_of

_RULES = select_settings(Config()).rules
POLICIES: dict[str, Rules] = {
    "threshold 0.5": _RULES,
    "threshold 0": replace(_RULES, min_confidence=0.0),
    "threshold 0.9": replace(_RULES, min_confidence=0.9),
    "best half of each class": replace(_RULES, policy="quantile", min_confidence=0.0),
    "best 16 of each class": replace(_RULES, policy="top-k", min_confidence=0.0),
}
STRENGTHS = (1.0, 10.0, 100.0)  # of logistic regression: scikit-learn's C
_VALID = 0.2


class Teacher:
    """Pseudo-labels of the images that teach, refined as `run` refines them by default."""

    def __init__(self, task: Task) -> None:
        """Label them; fewer than 300 are left as they are."""
        self._task = task
        naive = score(task.train, task.texts, scale=task.scale).classes
        labels = naive
        if len(naive) >= FEWEST:
            near = nearest_of(task.train).heard(naive)
            found = fit(USUAL, naive, task.train, task.texts, near)
            labels = vote_together(USUAL, found, naive, task.train, near)
        self._scores = labels

    def samples(self, rules: Rules, answers: int, seed: int) -> Samples:
        """Return what a policy keeps, and beside it some images whose truth a person told."""
        said, sure = self._scores.argmax(axis=1), self._scores.max(axis=1)
        frame = pl.DataFrame(
            {
                "row": np.arange(len(said)),
                "image_id": [f"{row:08}" for row in range(len(said))],
                "label": [str(name) for name in said],
                "confidence": sure,
                "reason": pl.Series([None] * len(said), dtype=pl.String),
                "group": pl.Series([None] * len(said), dtype=pl.String),
            }
        )
        kept = choose(frame, rules).filter("kept")["row"].to_numpy()
        labels, weights = said.copy(), sure.astype(np.float32)
        told = np.random.default_rng(seed).permutation(len(said))[:answers]
        labels[told], weights[told] = self._task.train_true[told], ANSWER_WEIGHT
        rows = np.union1d(kept, told).astype(np.int64)
        return _samples(self._task.train[rows], labels[rows], weights[rows])


def zero_shot(task: Task) -> float:
    """Return the accuracy of the text classifier on the test images."""
    return _accuracy(task.test @ task.texts.T, task)


def ceiling(task: Task) -> float:
    """Return the best accuracy of four heads that were taught the truth."""
    samples = _samples(task.train, task.train_true, np.ones(len(task.train), np.float32))
    nothing = samples.take(np.empty(0, np.int64))
    found = [head_of("linear", task, samples, 0)]
    for strength in STRENGTHS:
        logistic = LogisticHead(len(task.names), task.train.shape[1], strength=strength)
        logistic.fit(samples, nothing, _unheard)
        found.append(_accuracy(logistic.predict_proba(task.test, _no_side(task.test)), task))
    return max(found)


def head_of(kind: str, task: Task, samples: Samples, seed: int) -> float:
    """Return the accuracy of a head with the settings of the default config."""
    if len(np.unique(samples.labels)) < 2:
        return zero_shot(task)
    text = TextClassifier(task.names, task.texts, task.scale)
    settings = replace(recipe(Config()).settings, seed=seed)
    head = make_head(kind, text, samples.sizes, settings)
    order = np.random.default_rng(seed).permutation(len(samples))
    cut = round(_VALID * len(order))
    head.fit(samples.take(order[cut:]), samples.take(order[:cut]), _unheard)
    return _accuracy(head.predict_proba(task.test, _no_side(task.test)), task)


def _samples(images: Floats, labels: Ints, weights: Floats) -> Samples:
    return Samples(images, _no_side(images), labels.astype(np.int64), weights)


def _no_side(images: Floats) -> Floats:
    return np.empty((len(images), 0), np.float32)


def _accuracy(answers: Floats, task: Task) -> float:
    return float((answers.argmax(axis=1) == task.test_true).mean())


def _unheard(epoch: Epoch) -> None:
    """Tell nobody."""
