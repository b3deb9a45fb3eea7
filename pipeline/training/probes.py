"""Quick heads that tell how much of the pseudo-labels some numbers know, and which of them do.

Shapes: n images, F numbers of each, S side dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import chi2
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from pipeline.arrays import Floats, Ints
from pipeline.training.side.encoding import SideEncoding

FOLDS = 3
_RIDGE = 0.2  # beside the variance of a standardised number, which is 1
_LEAF = 2  # images: a range may hold few
_SAYS = 5  # words and columns that are named, at most
_WORD = 5  # images of a word, or it says nothing
_SURE = 0.01  # that any word at all is named by accident, at most


@dataclass(frozen=True)
class Probes:
    """Cross-validation on the same folds, whatever is asked."""

    labels: Ints  # (n,) class indices
    folds: list[tuple[Ints, Ints]]  # rows to fit to, rows to answer for

    def linear(self, numbers: Floats) -> float:
        """Return the mean recall of ridge regression onto the classes from (n, F) numbers.

        In closed form, for it is fitted dozens of times. Discriminant analysis would do no better,
        and fails where a leak is perfect: it asks how numbers vary within a class.
        """
        strength = _RIDGE * len(self.folds[0][0])
        ridge = RidgeClassifier(strength, class_weight="balanced", solver="cholesky")
        return self._recall(make_pipeline(StandardScaler(), ridge), numbers)

    def tree(self, numbers: Floats) -> float:
        """Return that of a decision tree, which finds ranges: lines part no 0 from 1 from 2."""
        tree = DecisionTreeClassifier(
            min_samples_leaf=_LEAF, class_weight="balanced", random_state=0
        )
        return self._recall(tree, numbers)

    def side(self, numbers: Floats, text: int) -> float:
        """Return the better of what suits texts, columns and both.

        Args:
            numbers: (n, S) side information.
            text: how many of S, from the first on, are of text.
        """
        found = [self.linear(numbers)] if text else []
        if text < numbers.shape[1]:
            found.append(self.tree(numbers[:, text:]))
            if text:
                found.append(self.linear(numbers[:, :text]))
        return max(found)

    def _recall(self, head: object, numbers: Floats) -> float:
        said = cross_val_predict(head, numbers.astype(np.float64), self.labels, cv=self.folds)
        return float(balanced_accuracy_score(self.labels, said))


def probes(labels: Ints, groups: Ints) -> Probes:
    """Lay out the folds.

    Args:
        labels: (n,) class indices.
        groups: (n,) images of one number stay on one side of every split.
    """
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    return Probes(labels, list(splitter.split(labels[:, None], labels, groups)))


def telling_words(texts: Sequence[str], labels: Ints, names: Sequence[str]) -> list[str]:
    """Name the words that depend most surely on the label (chi-squared), with what they go with.

    Args:
        texts: of n images.
        labels: (n,) indices of `names`.
        names: of the classes.
    """
    counter = CountVectorizer(binary=True, token_pattern=r"(?u)\b\w+\b", min_df=_WORD)  # noqa: S106 - no password
    try:
        there = counter.fit_transform(texts)
    except ValueError:  # no word is in that many texts
        return []
    words = counter.get_feature_names_out()
    surprise, accident = chi2(there, labels)
    said = []
    for column in np.argsort(-surprise, kind="stable")[:_SAYS]:
        if accident[column] * len(words) <= _SURE:
            counts = np.bincount(labels[there[:, column].nonzero()[0]], minlength=len(names))
            most = int(counts.argmax())
            share = f"{100 * counts[most] / counts.sum():.0f} % {names[most]}"
            said.append(f'"{words[column]}" ({counts.sum()} images, {share})')
    return said


def telling_columns(side: Floats, encoding: SideEncoding, asked: Probes, bar: float) -> list[str]:
    """Name the columns that by themselves find more than `bar` of a class, the best first."""
    found, start = [], encoding.text
    for code in encoding.columns:
        recall = asked.tree(side[:, start : start + code.width])
        start += code.width
        if recall > bar:
            name = " and ".join(code.names)
            found.append((-recall, f"column {name} (alone {100 * recall:.0f} %)"))
    return [words for _, words in sorted(found)[:_SAYS]]
