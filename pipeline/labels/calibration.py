"""Calibration: scores and answers "right or wrong" in; a rising map from score to confidence out.

What is calibrated is one event, "the top label is right", not the scores of all classes.
Nothing here touches a disk. Shapes: n answers, N images.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.arrays import Bools, Doubles, Floats

CLIP = 1e-4  # nearer to 0 and 1 a score says nothing more, and its logit would rule the fit
_MOST_SLOPE = 20.0
_TILT = 1e-3  # of the score in the confidence: where scores differ it tells them apart
_SURE = 1e-6  # nothing is surer to be right or wrong
_FOLDS = 10
_FEW, _FEW_OF_A_KIND = 100, 10  # answers, right ones and wrong ones, for isotonic to be tried
BINS = 15


@dataclass(frozen=True)
class Calibration:
    """A map from score to the probability that the top label is right; it rises everywhere."""

    slope: float  # Platt: expit(slope * logit(score) + intercept)
    intercept: float
    corners: tuple[tuple[float, float], ...] = ()  # isotonic: (score, confidence); else none

    @property
    def method(self) -> str:
        """The name of how it was fitted: platt or isotonic."""
        return "isotonic" if self.corners else "platt"

    def __call__(self, scores: Floats) -> Floats:
        """Return the confidences (N,), above 0 and below 1, of scores (N,).

        Raises:
            ValueError: a score is not a number.

        >>> Calibration(slope=2.0, intercept=0.0)(np.array([0.5, 0.75], np.float32)).round(3)
        array([0.5, 0.9], dtype=float32)
        """
        given = np.clip(np.asarray(scores, np.float64), 0, 1)
        found = _expit(self.slope * _logits(given) + self.intercept)
        if self.corners:
            at, confidence = zip(*self.corners, strict=True)
            found = np.interp(given, at, confidence)
        tilted = (1 - _TILT) * np.clip(found, _SURE, 1 - _SURE) + _TILT * given
        rounded: Floats = np.clip(tilted, _SURE, 1 - _SURE).astype(np.float32)
        return rounded

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON keeps it."""
        return asdict(self)


def from_json(held: Any) -> Calibration:
    """Return the calibration that `as_json` gave."""
    corners = tuple((float(score), float(confidence)) for score, confidence in held["corners"])
    return Calibration(float(held["slope"]), float(held["intercept"]), corners)


@dataclass(frozen=True)
class Fit:
    """A calibration, and how good it is on answers that it had not seen."""

    calibration: Calibration
    held_out: Floats  # (n,) confidence of each answer by a fit to the other folds
    platt_loss: float  # log loss in nats by cross-validation
    isotonic_loss: float | None  # None: too few answers to try


def fit(scores: Floats, right: Bools, weights: Doubles) -> Fit:
    """Calibrate, by Platt's method or isotonic regression.

    10-fold cross-validation decides by the weighted log loss. Isotonic regression, which has many
    more ways to be wrong, must be better by more than one standard error of the difference.

    Args:
        scores: (n,) of the top labels, 0 to 1. n is at least 2.
        right: (n,) whether the top label was right. All or none may be.
        weights: (n,) above 0: how many images an answer stands for.

    Raises:
        ValueError: a score is not a number, or there are fewer than 2 answers.
    """
    if len(scores) < 2:
        raise ValueError(f"need at least 2 answers to calibrate with, got {len(scores)}")
    rows = np.random.default_rng(0).permutation(len(scores))
    folds = [rows[start :: min(_FOLDS, len(rows))] for start in range(min(_FOLDS, len(rows)))]
    shared = (scores, right, weights)
    platt = _held_out(fit_platt, folds, *shared)
    platt_losses = _losses(platt, right)
    platt_loss = float(np.average(platt_losses, weights=weights))
    if len(scores) < _FEW or min(right.sum(), (~right).sum()) < _FEW_OF_A_KIND:
        return Fit(fit_platt(*shared), platt, platt_loss, None)
    isotonic = _held_out(fit_isotonic, folds, *shared)
    isotonic_losses = _losses(isotonic, right)
    isotonic_loss = float(np.average(isotonic_losses, weights=weights))
    gain = weights * (platt_losses - isotonic_losses) / weights.mean()
    if gain.mean() > gain.std() / np.sqrt(len(gain)):
        return Fit(fit_isotonic(*shared), isotonic, platt_loss, isotonic_loss)
    return Fit(fit_platt(*shared), platt, platt_loss, isotonic_loss)


def fit_platt(scores: Floats, right: Bools, weights: Doubles) -> Calibration:
    """Fit a sigmoid of the score's logit (Platt 1999), with his smoothed targets.

    They are (k + 1) / (k + 2) for the k right answers and 1 / (m + 2) for the m wrong ones, so that
    all answers may be right, or scores part right from wrong, and the fit stays finite. The slope
    is held between 0 and 20. The loss is convex: L-BFGS-B finds its one minimum.

    Args:
        scores: (n,), 0 to 1.
        right: (n,)
        weights: (n,) above 0.
    """
    from scipy.optimize import minimize  # a run with nothing new has no time for it

    x, share = _logits(scores), weights / weights.mean()
    hits = float(share[right].sum())
    misses = float(share[~right].sum())
    target = np.where(right, (hits + 1) / (hits + 2), 1 / (misses + 2))
    share = share / len(share)

    def loss(line: Doubles) -> tuple[float, Doubles]:
        z = line[0] * x + line[1]
        off = share * (_expit(z) - target)
        value = float(share @ (np.logaddexp(0, z) - target * z))
        return value, np.array([off @ x, off.sum()])

    bounds = [(0, _MOST_SLOPE), (None, None)]
    strict = {"ftol": 1e-14, "gtol": 1e-10}
    found = minimize(
        loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds, options=strict
    )
    return Calibration(slope=float(found.x[0]), intercept=float(found.x[1]))


def fit_isotonic(scores: Floats, right: Bools, weights: Doubles) -> Calibration:
    """Fit the best rising steps (Zadrozny and Elkan 2002), kept from promising 0 or 1.

    Args:
        scores: (n,), 0 to 1.
        right: (n,)
        weights: (n,) above 0.
    """
    from sklearn.isotonic import IsotonicRegression  # a run with nothing new has no time for it

    least = 1 / (len(scores) + 2)
    steps = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
    steps.fit(scores.astype(np.float64), right.astype(np.float64), sample_weight=weights)
    corners = zip(steps.X_thresholds_.tolist(), steps.y_thresholds_.tolist(), strict=True)
    return Calibration(0.0, 0.0, tuple(corners))


def calibration_error(
    confidence: Floats, right: Bools, weights: Doubles, bins: int = BINS
) -> tuple[float, float]:
    """Return the expected calibration error over bins of equal numbers, and what chance gives.

    The sum over bins of |sum w (confidence - right)| / sum w (Naeini et al. 2015, with equal-mass
    bins). The second number is what a perfect calibration would show with so few answers, by the
    normal approximation of each bin.

    Args:
        confidence: (n,)
        right: (n,)
        weights: (n,) above 0.
        bins: at least 1; with fewer answers, one for each.
    """
    order = np.argsort(confidence, kind="stable")
    found = chance = 0.0
    sure = confidence.astype(np.float64)
    for own in np.array_split(order, min(bins, len(order))):
        found += abs(float((weights[own] * (sure[own] - right[own])).sum()))
        spread = float((weights[own] ** 2 * sure[own] * (1 - sure[own])).sum())
        chance += np.sqrt(2 / np.pi * spread)
    total = float(weights.sum())
    return found / total, float(chance) / total


def _logits(scores: Floats | Doubles) -> Doubles:
    if np.isnan(scores).any():
        raise ValueError(f"score {int(np.flatnonzero(np.isnan(scores))[0])} is not a number")
    inner = np.clip(np.asarray(scores, np.float64), CLIP, 1 - CLIP)
    found: Doubles = np.log(inner) - np.log1p(-inner)
    return found


def _expit(z: Doubles) -> Doubles:
    found: Doubles = (1 + np.tanh(z / 2)) / 2  # overflows nowhere
    return found


def _held_out(
    fitter: Any, folds: list[Any], scores: Floats, right: Bools, weights: Doubles
) -> Floats:
    """Return the confidence of each answer by a fit to the other folds."""
    found = np.empty(len(scores), np.float32)
    for fold in folds:
        others = np.ones(len(scores), bool)
        others[fold] = False
        found[fold] = fitter(scores[others], right[others], weights[others])(scores[fold])
    return found


def _losses(confidence: Floats, right: Bools) -> Doubles:
    sure = np.clip(confidence.astype(np.float64), 1e-7, 1 - 1e-7)
    found: Doubles = -np.where(right, np.log(sure), np.log1p(-sure))
    return found
