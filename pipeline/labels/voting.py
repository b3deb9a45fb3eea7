"""Votes: scores in; a label, its margin and a right to abstain out.

Plain NumPy. Shapes: N images, C classes, K = min(top_k, C). Row i of every result belongs to image
i.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Bools, Floats, Ints
from pipeline.labels.scoring import Scores
from pipeline.tables import ABSTAIN

_FEW = 16  # columns that are sorted in no time; labels that are soon found one by one
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Votes:
    """One vote per image."""

    label: Ints  # (N,) index of the likeliest class, or ABSTAIN
    score: Floats  # (N,) probability of the likeliest class, abstained or not
    margin: Floats  # (N,) its lead over the runner-up, 0 to 1
    entropy: Floats  # (N,) in nats, of the class scores made to sum to 1
    top_labels: Ints  # (N, K) likeliest first; at a tie the lower index
    top_scores: Floats  # (N, K)
    rejected_by: Ints  # (N,) the reject prompt that beat every class, or -1
    unknown: Bools  # (N,) whether no class fits well enough


def vote(
    scores: Scores, *, top_k: int, abstain_below: float, unknown_above: float = np.inf
) -> Votes:
    """Take the likeliest class of each image, abstaining where the evidence is weak.

    Args:
        scores: as `score` returns them.
        top_k: labels to keep per image; with fewer classes, all of them.
        abstain_below: abstain below this probability, not at it.
        unknown_above: abstain where `scores.unknown` is higher.
    """
    table = scores.classes
    top_labels = top(table, max(top_k, 2))
    top_scores = np.take_along_axis(table, top_labels, axis=1)
    best = top_scores[:, 0]
    rejected_by = np.full(len(table), -1, np.int64)
    if scores.rejects.shape[1]:
        strongest = scores.rejects.argmax(axis=1)
        beaten = scores.rejects.max(axis=1) > best
        rejected_by[beaten] = strongest[beaten]
    unknown = scores.unknown > unknown_above
    weak = (best < abstain_below) | (rejected_by >= 0) | unknown
    kept = min(top_k, table.shape[1])
    alone = table.shape[1] == 1  # with no runner-up
    return Votes(
        label=np.where(weak, ABSTAIN, top_labels[:, 0]),
        score=best,
        margin=best if alone else best - top_scores[:, 1],
        entropy=_entropy(table),
        top_labels=top_labels[:, :kept],
        top_scores=top_scores[:, :kept],
        rejected_by=rejected_by,
        unknown=unknown,
    )


def top(table: Floats, k: int) -> Ints:
    """Return the columns (N, min(k, C)) of the k largest of each row, largest first.

    At a tie the lower index comes first.

    Args:
        table: (N, C), above -inf.
        k: at least 1.
    """
    k = min(k, table.shape[1])
    if k == table.shape[1] or table.shape[1] <= _FEW:
        return _sorted(table, k)
    if k <= _FEW:
        return _one_by_one(table, k)
    picked = np.sort(np.argpartition(table, -k, axis=1)[:, -k:], axis=1)
    values = np.take_along_axis(table, picked, axis=1)
    best: Ints = np.take_along_axis(picked, _sorted(values, k), axis=1)
    # Among equals argpartition picks as it likes. Where the smallest one picked has an equal that
    # was left out, the row is sorted whole.
    smallest = values.min(axis=1, keepdims=True)
    tied = (table == smallest).sum(axis=1) > (values == smallest).sum(axis=1)
    best[tied] = _sorted(table[tied], k)
    return best


def _sorted(table: Floats, k: int) -> Ints:
    best: Ints = np.argsort(-table, axis=1, kind="stable")[:, :k]
    return best


def _one_by_one(table: Floats, k: int) -> Ints:
    """Find the first maximum of each row, k times: a fifth of the time of argpartition."""
    best = np.empty((len(table), k), np.int64)
    rest, rows = table.copy(), np.arange(len(table))
    for place in range(k):
        rest.argmax(axis=1, out=best[:, place])
        rest[rows, best[:, place]] = -np.inf
    return best


def _entropy(table: Floats) -> Floats:
    """Return -sum(s log s), s = p / sum(p), as log(sum(p)) - sum(p log p) / sum(p)."""
    total = table.sum(axis=1)
    logs = np.maximum(table, _TINY)  # p log p is 0 at 0
    np.log(logs, out=logs)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.log(total) - np.einsum("ij,ij->i", table, logs) / total
    # A sigmoid model may find no class at all: then every class is equally unlikely.
    entropy = np.where(total > _TINY, entropy, np.log(table.shape[1]))
    found: Floats = np.maximum(entropy, 0).astype(np.float32)
    return found
