"""What is taken for what: counts of true classes against labels given.

Only the pairs that occur are kept, so that label sets of thousands of classes need no square table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Ints

OUTSIDE = "(not in the label set)"  # a true class
ABSTAINED = "(abstained)"  # instead of a label
OTHERS = "(other classes)"  # of a picture that shows a few


@dataclass(frozen=True)
class Cell:
    """Images of one true class that were given one label."""

    true: str | None  # null: its true label is none of the label set
    given: str | None  # null: abstained
    images: int

    @property
    def wrong(self) -> bool:
        """Whether this is a mistake; to abstain is none, nor is to be asked for what is absent."""
        return self.true is not None and self.given is not None and self.true != self.given


@dataclass(frozen=True)
class Grid:
    """A confusion matrix for people: some classes, and columns for all the rest."""

    rows: list[str]
    columns: list[str]
    images: Ints  # (rows, columns)
    shown: int  # classes that have a row and a column of their own


def confusion(true: Ints, given: Ints, classes: Sequence[str]) -> list[Cell]:
    """Count the pairs of true class and label given; the most frequent first.

    Args:
        true: (N,) index of the true class; -1: it is none of them.
        given: (N,) index of the label given; -1: abstained.
        classes: the labels.

    >>> confusion(np.array([0, 0, 1]), np.array([1, 1, -1]), ["cat", "dog"])
    [Cell(true='cat', given='dog', images=2), Cell(true='dog', given=None, images=1)]
    """
    width = len(classes) + 1
    pairs, counts = np.unique((true + 1) * width + given + 1, return_counts=True)
    names = [None, *classes]
    order = np.argsort(-counts, kind="stable")
    rows, columns = np.divmod(pairs[order], width)
    listed = zip(rows.tolist(), columns.tolist(), counts[order].tolist(), strict=True)
    return [Cell(names[row], names[column], images) for row, column, images in listed]


def in_words(cells: Sequence[Cell], most: int = 10) -> list[str]:
    """Say which classes are most often taken for which.

    >>> in_words([Cell("cat", "cat", 3), Cell("cat", "dog", 1)])
    ['1 of 4 cat was called dog']
    """
    of_class: dict[str | None, int] = {}
    for cell in cells:
        of_class[cell.true] = of_class.get(cell.true, 0) + cell.images
    return [
        f"{cell.images} of {of_class[cell.true]} {cell.true} "
        f"{'was' if cell.images == 1 else 'were'} called {cell.given}"
        for cell in sorted((c for c in cells if c.wrong), key=lambda cell: -cell.images)[:most]
    ]


def grid(cells: Sequence[Cell], classes: Sequence[str], most: int = 30) -> Grid:
    """Lay the pairs out, in the order of the label set.

    Args:
        cells: as `confusion` counts them.
        classes: the labels.
        most: of more classes those are shown that are in most mistakes, on either side; what they
            were called beside each other is counted in a column of its own.
    """
    mistakes = dict.fromkeys(classes, 0)
    for cell in cells:
        for name in (cell.true, cell.given) if cell.wrong else ():
            mistakes[str(name)] += cell.images
    busiest = sorted(classes, key=lambda name: -mistakes[name])[:most]
    kept = set(busiest)
    shown = [name for name in classes if name in kept]
    rows = [*shown, *([OUTSIDE] if any(cell.true is None for cell in cells) else [])]
    columns = [*shown, *([OTHERS] if len(shown) < len(classes) else []), ABSTAINED]
    row_of = {name: at for at, name in enumerate(shown)}
    counts = np.zeros((len(rows), len(columns)), np.int64)
    for cell in cells:
        row = len(shown) if cell.true is None else row_of.get(cell.true)
        if row is not None:
            column = -1 if cell.given is None else row_of.get(cell.given, len(shown))
            counts[row, column] += cell.images
    return Grid(rows, columns, counts, len(shown))
