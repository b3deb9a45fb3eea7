"""Answers: rows of the index and their numbers to tables.

Shapes: N rows of the index, M images that are there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.arrays import Floats, Ints

NUMBERS = ("image_cosine", "text_cosine", "standing")


@dataclass(frozen=True)
class Hits:
    """The answer to a query."""

    rows: Ints  # of the index, most similar first
    numbers: dict[str, Floats]  # those of NUMBERS that there are


def tables(
    shown: pl.DataFrame, place: npt.NDArray[np.int32], answers: Sequence[Hits]
) -> list[pl.DataFrame]:
    """Make a table of each answer; the rows of all are gathered at once.

    Args:
        shown: M rows, what is told of each image beside NUMBERS.
        place: (N,) the row of `shown` of each row of the index.
        answers: one for each query.
    """
    every = np.concatenate([one.rows for one in answers])
    columns = [_column(name, answers) for name in NUMBERS]
    rows = shown[place[every]].hstack(columns)
    ends = np.cumsum([0, *(len(one.rows) for one in answers)]).tolist()
    return [rows[start:end] for start, end in pairwise(ends)]


def _column(name: str, answers: Sequence[Hits]) -> pl.Series:
    """Return one of NUMBERS of all answers, null where there is none."""
    given = [one.numbers.get(name) for one in answers]
    values = [value for value in given if value is not None]
    if len(values) == len(answers):
        return pl.Series(name, np.concatenate(values), pl.Float32)
    if not values:  # the usual cases are cheap
        return pl.Series(name, [None] * sum(len(one.rows) for one in answers), pl.Float32)
    pieces = [
        pl.Series(name, [None] * len(one.rows) if value is None else value, pl.Float32)
        for one, value in zip(answers, given, strict=True)
    ]
    return pl.concat(pieces)
