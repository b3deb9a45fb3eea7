"""Two sets of images in; how far apart they lie, and how far they would by chance alone, out.

By chance: as many images as the first set has, drawn at random from both together. This is a
permutation test, exact for sets of any size (Good, Permutation, Parametric and Bootstrap Tests of
Hypotheses, 2005).

Shapes: n and k images, C classes, B draws, D embedding dimensions.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Doubles, Floats, Ints

_BINS = 100
_BLOCK = 256  # draws at a time: bounds memory
_ROUNDING = 1e-7  # the same draw, added up in another order


@dataclass(frozen=True)
class Tested:
    """What was found beside what chance brings."""

    found: float
    chance: Doubles  # (B,)

    @property
    def p(self) -> float:
        """Return the share of draws that are as large, what was found among them."""
        slack = _ROUNDING * max(1.0, abs(self.found))
        return float((1 + (self.chance >= self.found - slack).sum()) / (1 + len(self.chance)))

    @property
    def expected(self) -> float:
        """Return what chance brings on average."""
        return float(self.chance.mean())


def js_divergence(ours: Ints, theirs: Ints) -> float:
    """Return the Jensen-Shannon divergence of two mixes in bits, 0 (same) to 1 (nothing in common).

    Args:
        ours: (C,) counts, not all 0.
        theirs: (C,) counts, not all 0.

    Source: Lin, Divergence measures based on the Shannon entropy, 1991.

    >>> js_divergence(np.array([5, 0]), np.array([0, 3]))
    1.0
    >>> js_divergence(np.array([1, 1]), np.array([4, 4]))
    0.0
    """
    return float(_divergences(ours[None], theirs[None])[0])


def compare_mixes(ours: Ints, theirs: Ints, draws: int, rng: np.random.Generator) -> Tested:
    """Compare two mixes by their Jensen-Shannon divergence; (C,) counts each, neither empty."""
    there = (ours + theirs) > 0
    ours, theirs = ours[there], theirs[there]
    drawn = _drawn(ours, theirs, draws, rng)
    chance = _divergences(drawn, ours + theirs - drawn)
    return Tested(js_divergence(ours, theirs), chance)


def compare_means(ours: Floats, theirs: Floats, draws: int, rng: np.random.Generator) -> Tested:
    """Compare the means of (n,) and (k,) values, sorted into 100 bins: ours less theirs."""
    low = min(float(ours.min()), float(theirs.min()))
    high = max(float(ours.max()), float(theirs.max()))
    if not low < high:
        return Tested(0.0, np.zeros(draws))
    edges = np.linspace(low, high, _BINS + 1)
    first, second = (np.histogram(each, edges)[0].astype(np.int64) for each in (ours, theirs))
    middles = (edges[1:] + edges[:-1]) / 2

    def difference(mine: Ints) -> Doubles:
        rest: Doubles = (first + second - mine) @ middles / len(theirs)
        return mine @ middles / len(ours) - rest

    drawn = _drawn(first, second, draws, rng)
    return Tested(float(difference(first[None])[0]), difference(drawn))


@dataclass(frozen=True)
class VectorsTested:
    """How two sets of vectors lie to one another."""

    distance: Tested  # of the means, squared
    variance: Tested  # difference of the two, whichever is larger
    ours: float  # mean squared distance from the mean
    theirs: float

    @property
    def shift(self) -> float:
        """Return the distance of the means in spreads, what chance alone makes taken off.

        The spread is the root of the mean variance. The squared distance is without bias (Bai and
        Saranadasa, Effect of high dimension, 1996): that of the means of few images is large.
        """
        spread = (self.ours + self.theirs) / 2
        return (max(0.0, self.distance.found - self.noise) / spread) ** 0.5 if spread > 0 else 0.0

    noise: float  # what chance alone puts between the means, squared


def compare_vectors(
    ours: Floats, theirs: Floats, draws: int, rng: np.random.Generator
) -> VectorsTested:
    """Compare (n, D) and (k, D) vectors of unit length, n and k at least 2."""
    rows = np.concatenate([ours, theirs]).astype(np.float32)
    own, others, total = len(ours), len(theirs), rows.sum(axis=0, dtype=np.float64)

    def moments(sums: Doubles) -> tuple[Doubles, Doubles, Doubles]:
        mine, rest = sums / own, (total - sums) / others
        return ((mine - rest) ** 2).sum(axis=1), _variance(mine, own), _variance(rest, others)

    distances, differences = [], []
    mask = (np.arange(len(rows)) < own).astype(np.float32)
    for at in range(0, draws, _BLOCK):
        masks = rng.permuted(np.tile(mask, (min(_BLOCK, draws - at), 1)), axis=1)
        distance, mine, rest = moments((masks @ rows).astype(np.float64))
        distances.append(distance)
        differences.append(np.abs(mine - rest))
    distance, mine, rest = moments(ours.sum(axis=0, dtype=np.float64)[None])
    return VectorsTested(
        distance=Tested(float(distance[0]), np.concatenate(distances)),
        variance=Tested(float(abs(mine - rest)[0]), np.concatenate(differences)),
        ours=float(mine[0]),
        theirs=float(rest[0]),
        noise=float((mine / own + rest / others)[0]),
    )


def _variance(means: Doubles, size: int) -> Doubles:
    """Return that of unit vectors, by the length of their means (B, D) alone."""
    found: Doubles = (1 - (means**2).sum(axis=1)) * size / (size - 1)
    return np.maximum(found, 0.0)  # rounding


def _drawn(ours: Ints, theirs: Ints, draws: int, rng: np.random.Generator) -> Ints:
    """Return (B, C) counts of as many as `ours`, drawn without replacement from both together."""
    found: Ints = rng.multivariate_hypergeometric(
        ours + theirs, int(ours.sum()), size=draws, method="marginals"
    )
    return found


def _divergences(ours: Ints, theirs: Ints) -> Doubles:
    first, second = (each / each.sum(axis=1, keepdims=True) for each in (ours, theirs))
    found = _entropy((first + second) / 2) - (_entropy(first) + _entropy(second)) / 2
    return np.clip(found, 0.0, 1.0)  # rounding


def _entropy(shares: Doubles) -> Doubles:
    """Return that of (B, C) shares in bits."""
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    found: Doubles = -(shares * logs).sum(axis=1)
    return found
