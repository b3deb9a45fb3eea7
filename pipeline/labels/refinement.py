"""Refine: better probabilities from those of similar images and of the whole store, without truth.

Four ways, all label-free (how the constants of the first three were found is told beside the
README's table):

- neighbours-sure: most of every vote is the neighbours', but the model's own label changes only
  where another one gets twice its votes.
- neighbours-strong: half of every vote is the neighbours'.
- neighbours: an image and its nearest ones vote together, the more the more of them are mutual
  neighbours; classes that fit everything (hubs) are damped, the more the more even the classes are.
- anchored: a Gaussian for each class, of one shared diagonal covariance, whose mean stays at its
  text where few images are of that class; after StatA (Zanella et al., CVPR 2025, 2501.03729) and
  TransCLIP (Zanella et al., NeurIPS 2024, 2406.01837).

Plain NumPy. Shapes: N images, K neighbours, D embedding dimensions, W columns: classes, then reject
prompts. Probabilities are those of `scoring.Scores`, side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Bools, Floats

Method = Literal["none", "neighbours", "neighbours-strong", "neighbours-sure", "anchored"]

METHODS: tuple[Method, ...] = ("neighbours", "neighbours-strong", "neighbours-sure", "anchored")
NEIGHBOURS = 10  # K
FEWEST = 300  # images; of fewer the neighbours are too far to help
_TEMPERATURE = 0.05  # of the softmax over neighbours' cosines
_SHARES = {"neighbours": 0.5, "neighbours-strong": 0.5, "neighbours-sure": 0.7}  # of a vote
_OWN_LABEL = 2.0  # times that it counts for neighbours-sure
_DAMPING = 0.5  # of hubs, at most
_PRIOR_IMAGES = 10.0  # that a class's text counts for
_LIKELIHOOD = 1 / 50  # tempers the Gaussians (TransCLIP); untempered they are sure of everything
_ROUNDS = 10
_SCALINGS, _CLOSE = 200, 1e-3  # at most; relative to a share
_TINY = np.finfo(np.float32).tiny


def generation(images: int) -> int:
    """Count how often a store of so many images has doubled since it had enough; 0: it has not.

    >>> [generation(images) for images in (299, 300, 599, 600, 1_200)]
    [0, 1, 1, 2, 3]
    """
    return (images // FEWEST).bit_length()


@dataclass(frozen=True)
class Near:
    """The neighbours of N images, and what the model itself said of them."""

    probabilities: Floats  # (N, K, W)
    cosines: Floats  # (N, K); -inf where there were fewer than K
    mutual: Bools  # (N, K) whether the image is among its neighbour's own K nearest


@dataclass(frozen=True)
class Fit:
    """What the images of a store, taken together, tell of each of them."""

    log_offset: Floats  # (W,) taken off the log-probabilities
    linear: tuple[Floats, Floats] | None  # (D, W), (W,): added to them, by the image's vector
    power: float  # what the log-probabilities are multiplied by in the end

    def prior(self, probabilities: Floats, images: Floats) -> Floats:
        """Return (N, W) probabilities before neighbours are heard.

        Args:
            probabilities: (N, W), the model's.
            images: (N, D), their vectors; looked at by `anchored` alone.
        """
        logs = _logs(probabilities) - self.log_offset
        if self.linear is not None:
            slopes, constants = self.linear
            logs += images @ slopes + constants
        return _softmax(logs)


def fit(
    method: Method,
    probabilities: Floats,
    images: Floats,
    texts: Floats,
    near: Near | None,
    shares: Sequence[float] | None = None,
) -> Fit:
    """Learn from a sample of a store's images, or from all of them.

    Args:
        method: not "none".
        probabilities: (N, W), the model's, by softmax.
        images: (N, D), rows of unit length.
        texts: (W, D), rows of unit length.
        near: the neighbours of these images; None: `anchored` needs none.
        shares: of the classes among all images, above 0, summing to 1; None: not known.
    """
    width = probabilities.shape[1]
    offset = np.zeros(width, np.float32)
    linear = None
    if shares is not None:
        offset = _towards(probabilities, shares)
    elif method == "neighbours":
        offset = _damping(probabilities)
    if method == "anchored":
        linear = _gaussians(probabilities, images, texts)
    found = Fit(offset, linear, power=1.0)
    refined = vote_together(method, found, probabilities, images, near)
    target = float(probabilities.max(axis=1).mean())
    return Fit(offset, linear, _power(refined, target))


def vote_together(
    method: Method, found: Fit, probabilities: Floats, images: Floats, near: Near | None
) -> Floats:
    """Return refined probabilities (N, W); rows sum to 1.

    Args:
        method: the one that `found` was fitted for.
        found: what `fit` learned.
        probabilities: (N, W), the model's.
        images: (N, D), rows of unit length.
        near: their neighbours; None for `anchored`.
    """
    own = found.prior(probabilities, images)
    if near is not None and method != "anchored":
        n, k, width = near.probabilities.shape
        theirs = near.probabilities
        if found.log_offset.any():
            theirs = _softmax(_logs(theirs) - found.log_offset)
        mixed = smooth(method, own, theirs.reshape(n, k, width), near)
        own = _own_label_first(mixed, own) if method == "neighbours-sure" else mixed
    return own if found.power == 1 else _softmax(found.power * _logs(own))


def smooth(method: Method, own: Floats, theirs: Floats, near: Near) -> Floats:
    """Mix (N, W) votes with those of the neighbours, (N, K, W); also right for independent classes.

    w = softmax(cosine / 0.05) over the neighbours; the share of theirs is 0.5 sqrt(m), m the share
    of mutual neighbours, or always 0.5 (strong) or 0.7 (sure). Who has none keeps his own.
    """
    there = np.isfinite(near.cosines)
    best = np.where(there, near.cosines, -np.inf).max(axis=1, keepdims=True, initial=-1.0)
    weights = np.where(there, np.exp((near.cosines - best) / _TEMPERATURE), 0.0)
    total = weights.sum(axis=1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    share = np.full(len(own), _SHARES[method])
    if method == "neighbours":
        count = np.maximum(there.sum(axis=1), 1)
        share *= np.sqrt((near.mutual & there).sum(axis=1) / count)
    share = np.where(there.any(axis=1), share, 0.0)[:, None]
    mean = np.einsum("nk,nkw->nw", weights, theirs)
    mixed: Floats = ((1 - share) * own + share * mean).astype(np.float32)
    return mixed


def _own_label_first(mixed: Floats, own: Floats) -> Floats:
    """Return (N, W) mixed votes in which the label that leads by `own` counts twice."""
    weighted, rows = mixed.copy(), np.arange(len(mixed))
    weighted[rows, own.argmax(axis=1)] *= _OWN_LABEL
    weighted /= weighted.sum(axis=1, keepdims=True)
    return weighted


def _damping(probabilities: Floats) -> Floats:
    """Return what to take off each column's logarithm: half its lead, times r cubed.

    r, from 0 to 1, tells how evenly the classes are spread: with few of many present a column leads
    because it is right.
    """
    mean = probabilities.mean(axis=0, dtype=np.float64)
    entropy = -(mean * np.log(np.maximum(mean, _TINY))).sum()
    evenness = min(1.0, float(np.exp(entropy)) / len(mean))
    lead = _logs(probabilities).mean(axis=0, dtype=np.float64)
    offset: Floats = (_DAMPING * evenness**3 * (lead - lead.mean())).astype(np.float32)
    return offset


def _towards(probabilities: Floats, shares: Sequence[float]) -> Floats:
    """Return what to take off each class's logarithm so that the mean probabilities are its share.

    Sinkhorn's scaling towards a marginal that the user gives (OTTER, Shin et al., NeurIPS 2024,
    2404.08461). What falls to reject prompts is left to them.
    """
    wanted, logs = np.asarray(shares), _logs(probabilities).astype(np.float64)
    offset = np.zeros(probabilities.shape[1])
    for _ in range(_SCALINGS):
        mean = _softmax(logs - offset).mean(axis=0)[: len(wanted)]
        step = np.log(np.maximum(mean, _TINY) / (wanted * mean.sum()))
        offset[: len(wanted)] += step
        if np.abs(step).max() < _CLOSE:
            break
    found: Floats = offset.astype(np.float32)
    return found


def _gaussians(probabilities: Floats, images: Floats, texts: Floats) -> tuple[Floats, Floats]:
    """Fit a Gaussian for each column by EM; return the log-likelihood's linear part, tempered.

    Texts and images lie apart (the modality gap), so a text is carried over: from the mean image
    into its own direction from the mean text, as far as fits the images best.
    """
    x, t = images.astype(np.float64), texts.astype(np.float64)
    centre, directions = x.mean(axis=0), t - t.mean(axis=0)
    share = probabilities.astype(np.float64)
    naive = _logs(probabilities).astype(np.float64)
    for _ in range(_ROUNDS):
        counts = share.sum(axis=0)
        sums = share.T @ x
        moved = sums - counts[:, None] * centre
        reach = max(
            0.0, float((moved * directions).sum() / (counts @ (directions**2).sum(axis=1) + _TINY))
        )
        anchors = centre + reach * directions
        means = (sums + _PRIOR_IMAGES * anchors) / (counts[:, None] + _PRIOR_IMAGES)
        spread = (x**2).sum(axis=0) - 2 * (means * sums).sum(axis=0) + counts @ means**2
        variance = np.maximum(spread / len(x), 1e-6)
        slopes = _LIKELIHOOD * means / variance
        constants = -0.5 * _LIKELIHOOD * (means**2 / variance).sum(axis=1)
        share = _softmax(naive + x @ slopes.T + constants).astype(np.float64)
    return slopes.T.astype(np.float32), constants.astype(np.float32)


def _power(probabilities: Floats, target: float) -> float:
    """Return the power that gives rows, made to sum to 1 again, a mean maximum of `target`."""
    logs = _logs(probabilities).astype(np.float64)
    low, high = -3.0, 3.0  # natural logarithms of the power
    for _ in range(40):
        middle = (low + high) / 2
        if _softmax(np.exp(middle) * logs).max(axis=1).mean() < target:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


def _logs(probabilities: Floats) -> Floats:
    logs: Floats = np.log(np.maximum(probabilities, _TINY))
    return logs


def _softmax(logs: npt.NDArray[np.floating]) -> Floats:
    weights = np.exp(logs - logs.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    rows: Floats = weights  # in the precision of `logs`
    return rows
