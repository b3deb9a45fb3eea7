"""Refining: `refinement` for the images of a store, batch by batch, against all that it holds.

Shapes: N images of the store, n of a batch, K neighbours, D embedding dimensions, W columns:
classes, then reject prompts.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pipeline.arrays import Bools, Floats, Ints
from pipeline.errors import InputError
from pipeline.labels.refinement import FEWEST, NEIGHBOURS, Fit, Method, Near, fit, smooth
from pipeline.labels.refinement import vote_together as together
from pipeline.labels.scoring import Scorer, Scores

_SAMPLE, _SMALLEST_SAMPLE = 8192, 1024  # images that a fit looks at
_SAMPLE_BYTES = 128 << 20  # of their neighbours' probabilities, at most
_BLOCK = 512  # images whose neighbours are scored at a time
_DECODED = 8192  # neighbours' vectors at a time: those of a sample would take some 200 MB


class Neighbourhood(Protocol):
    """The images of a store and who is near whom, by number."""

    def __len__(self) -> int:
        """Return N."""

    def rows_of(self, ids: Sequence[str]) -> Ints:
        """Return the numbers of some images."""

    def sample(self, count: int) -> Ints:
        """Return the numbers of that many images, or of all: the same whatever their order."""

    def vectors(self, rows: Ints) -> Floats:
        """Return (len(rows), D) vectors."""

    def of(self, rows: Ints) -> tuple[Ints, Floats, Bools]:
        """Return neighbours (n, K; -1: none), cosines (n, K; -inf: none), who is mutual (n, K)."""


class Refiner:
    """One method, fitted to a store, for a scorer's scores. May be called by many threads."""

    def __init__(
        self,
        method: Method,
        score: Scorer,
        store: Neighbourhood,
        shares: Sequence[float] | None = None,
    ) -> None:
        """Fit the method to a sample of the store.

        Args:
            method: not "none".
            score: of the label set.
            store: its images; of fewer than 300 scores stay as they are.
            shares: of the classes among them, where the user knows.

        Raises:
            InputError: the method needs a softmax, and the scores are of another kind.
        """
        if shares is not None and score.independent:
            raise InputError(
                "count: this is a sigmoid model, whose classes do not compete: leave counts out"
            )
        if method == "anchored" and score.independent:
            raise InputError(
                'labels.refine "anchored" needs classes that compete (a softmax): for sigmoid '
                'models and multi-label sets use "neighbours" or "none"'
            )
        if method == "neighbours-sure" and score.independent:
            method = "neighbours-strong"  # no label is there that another one could outvote
        self._method, self._score, self._store = method, score, store
        self.active = len(store) >= FEWEST
        self._fit: Fit | None = None
        if self.active and not score.independent:
            room = _SAMPLE_BYTES // (4 * NEIGHBOURS * score.width)
            rows = store.sample(min(_SAMPLE, max(_SMALLEST_SAMPLE, room)))
            images = store.vectors(rows)
            probabilities = _table(score(images))
            near = self._near(rows) if method != "anchored" else None
            self._fit = fit(method, probabilities, images, score.texts, near, shares)

    def __call__(self, ids: Sequence[str], images: Floats, naive: Scores) -> Scores:
        """Return the refined scores of (n, D) images; how unknown they are stays as it was."""
        if not self.active:
            return naive
        rows, table = self._store.rows_of(ids), _table(naive)
        blocks = [
            self._refined(rows[at : at + _BLOCK], images[at : at + _BLOCK], table[at : at + _BLOCK])
            for at in range(0, len(rows), _BLOCK)
        ]
        refined = np.concatenate(blocks) if blocks else table
        classes = naive.classes.shape[1]
        return Scores(refined[:, :classes], refined[:, classes:], naive.unknown)

    def _refined(self, rows: Ints, images: Floats, table: Floats) -> Floats:
        if self._fit is None:
            near = self._near(rows)
            return smooth(self._method, table, near.probabilities, near)
        near_them = self._near(rows) if self._method != "anchored" else None
        return together(self._method, self._fit, table, images, near_them)

    def _near(self, rows: Ints) -> Near:
        """Return the neighbours of some images, each scored once."""
        neighbours, cosines, mutual = self._store.of(rows)
        needed, places = np.unique(np.maximum(neighbours, 0), return_inverse=True)
        some = [needed[at : at + _DECODED] for at in range(0, len(needed), _DECODED)]
        scored = np.concatenate([_table(self._score(self._store.vectors(part))) for part in some])
        shape = (len(rows), NEIGHBOURS, scored.shape[1])
        return Near(scored[places.ravel()].reshape(shape), cosines, mutual)


def _table(scores: Scores) -> Floats:
    """Return (n, W): the classes' scores beside those of the reject prompts."""
    return np.concatenate([scores.classes, scores.rejects], axis=1)
