"""Methods: which refinement the answers of an audit speak for.

The same answers that calibrate the labels choose between five methods at most, and only where the
difference is clear, so what choosing adds to their estimate is little.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pipeline.arrays import Bools
from pipeline.label_set import LabelSet
from pipeline.labels.answers import table_of
from pipeline.labels.refinement import Method
from pipeline.store import Store

USUAL: Method = "neighbours-sure"  # where no audit has chosen another one: see the README's table
_CHANCE = 0.05  # of leaving the usual method for one that is no better, over all comparisons


@dataclass(frozen=True)
class Compared:
    """One method beside the usual one, on the answered images."""

    method: Method
    right: int
    gained: int  # right here, wrong by the usual method
    lost: int  # the other way round
    p: float  # of so clear a difference by chance: exact McNemar test, two-sided


@dataclass(frozen=True)
class Choice:
    """What the answers speak for."""

    method: Method
    answers: int
    compared: list[Compared]


def choose(right: Mapping[Method, Bools]) -> Choice:
    """Choose the method that is right most often, if it is clearly better than the usual one.

    Args:
        right: by method, the usual one among them, (n,) whether its label is that of the answer.

    >>> import numpy as np
    >>> usual, other = np.arange(30) < 15, np.arange(30) < 24
    >>> choose({"neighbours-sure": usual, "none": other}).method  # 9 gained, none lost: p = 0.004
    'none'
    """
    from scipy.stats import binomtest  # half a second, which a run with nothing new need not spend

    usual = right[USUAL]
    compared = []
    for method, theirs in right.items():
        gained, lost = int((theirs & ~usual).sum()), int((usual & ~theirs).sum())
        p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
        compared.append(Compared(method, int(theirs.sum()), gained, lost, p))
    bar = _CHANCE / max(1, len(compared) - 1)  # Bonferroni
    better = [each for each in compared if each.gained > each.lost and each.p <= bar]
    best = max(better, key=lambda each: each.right, default=None)
    return Choice(best.method if best else USUAL, len(usual), compared)


def keep_choice(store: Store, label_set: LabelSet, choice: Choice) -> None:
    """Keep what was chosen for a label set; the store's lock must be held."""
    store.put_json(_file(label_set), asdict(choice))


def chosen_method(store: Store, label_set: LabelSet) -> Method:
    """Return the method that an audit of these classes chose, or the usual one."""
    method: Method = store.get_json(_file(label_set)).get("method", USUAL)  # type: ignore[assignment]
    return method


def _file(label_set: LabelSet) -> str:
    return f"{table_of(label_set)}/method-{label_set.fingerprint()}.json"
