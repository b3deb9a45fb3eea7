"""Queries: the things asked for, which images may answer, and several things as one vector.

Shapes: T terms of a query, D embedding dimensions, S images of a sample.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from pipeline.arrays import Doubles, Floats, require_unit_rows, unit_rows
from pipeline.errors import InputError

_FLAT = 1e-6  # of cosines: a spread below it is rounding
_CANCELLED = 1e-3  # length of a combination, of what its terms have together; rounding is below it


@dataclass(frozen=True, eq=False)
class Term:
    """One thing asked for.

    Raises:
        InputError: the weight is 0 or not finite.
        ValueError: the vector is not of unit length.
    """

    vector: Floats  # (D,), unit length
    kind: Literal["image", "text"]
    weight: float = 1.0  # below 0: away from it
    image_id: str | None = None  # the image of the store that it is, which is not to answer itself

    def __post_init__(self) -> None:
        require_unit_rows("a term", self.vector[None])
        if not math.isfinite(self.weight) or self.weight == 0:
            raise InputError(
                f"the weight of a term must be a number, above 0 or below it, got {self.weight}"
            )


@dataclass(frozen=True)
class Filters:
    """Which images may answer: those that pass all of these; as it stands, each lets all pass."""

    labels: tuple[str, ...] = ()  # any of these, be it one of several labels of an image
    min_confidence: float = 0.0  # 0 to 1
    path_contains: str | None = None  # any of its paths
    path_prefix: str | None = None  # any of its paths
    kept: bool | None = None  # True: selected for training; False: left out, or not looked at yet
    since: datetime | None = None  # first seen then or later; with time zone
    until: datetime | None = None  # first seen before then; with time zone

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise InputError(f"the least confidence must be 0 to 1, got {self.min_confidence}")
        for name in ("since", "until"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise ValueError(f"{name} must have a time zone, got {moment}")
            try:
                _ = moment and moment.astimezone(UTC)
            except OverflowError:
                raise InputError(f"{name} {moment}: lies outside the years 1 to 9999") from None


NO_FILTERS = Filters()


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of a store's vectors: they give those of any term's cosines."""

    mean: Doubles  # (D,)
    covariance: Doubles  # (D, D)

    @classmethod
    def of(cls, vectors: Floats) -> "Moments":
        """Measure (S, D) vectors; of none all is 0."""
        count, wide = max(len(vectors), 1), vectors.astype(np.float64)
        mean = wide.sum(axis=0) / count
        wide -= mean
        return cls(mean, wide.T @ wide / count)


@dataclass(frozen=True)
class Combination:
    """Several terms as one vector; the standing of an image is `factor * cosine + offset`."""

    vector: Floats  # (D,), unit length
    factor: float = 1.0  # above 0
    offset: float = 0.0


def combine(terms: Sequence[Term], moments: Moments) -> Combination:
    """Make one vector of several terms, whose cosines rank images by their standing.

    Two images are 0.5 to 0.9 alike, an image and a text that tells of it 0.2 to 0.3: added as they
    are, the images would drown the texts. So each term's cosines c_i = q_i . x are held against
    their own mean m_i and standard deviation s_i over the store, and the standing of image x is

        sum(w_i * (c_i - m_i) / s_i) / W    with W = sum(|w_i|)
        = (v . x - sum(w_i * m_i / s_i)) / W    with v = sum(w_i * q_i / s_i)

    how many standard deviations it lies above the store's average image, as a weighted mean over
    the terms. It is linear in x, so that any index answers it in one search for v. As
    m_i = q_i . mean and s_i^2 = q_i . covariance . q_i, nothing is searched beforehand.

    Args:
        terms: T of them.
        moments: of the store's vectors, or of a sample.

    Raises:
        InputError: no term has a weight above 0, or the terms cancel one another out.
    """
    weights = np.array([term.weight for term in terms], np.float64)
    if not (weights > 0).any():
        raise InputError("a query needs a text, an image or an id to look for: of a weight above 0")
    weights /= np.abs(weights).max()  # only their ratios count; sums of huge ones are infinite
    vectors = np.stack([term.vector for term in terms]).astype(np.float64)
    variance = ((vectors @ moments.covariance) * vectors).sum(axis=1)
    spread = np.sqrt(np.maximum(variance, 0))
    spread[spread < _FLAT] = 1.0  # to such a term all images are the same: it ranks none
    scaled = weights / spread
    combined, total = scaled @ vectors, np.abs(weights).sum()
    length = np.linalg.norm(combined)
    if length < _CANCELLED * np.abs(scaled).sum():
        raise InputError(
            "the terms of the query cancel one another out: what is asked for is what is not to be "
            "there; change a term or its weight"
        )
    offset = -(scaled @ (vectors @ moments.mean)) / total
    vector = unit_rows(combined[None])[0]
    return Combination(vector, float(length / total), float(offset))
