"""The numbers that stand for side information: fitted on training rows, kept as JSON.

Shapes: n rows, S side dimensions: the text's D first, then each column's.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import time
from typing import Any

import numpy as np
import polars as pl

from pipeline.arrays import Bools, Doubles, Floats
from pipeline.training.side.columns import Column, Kind
from pipeline.training.side.settings import SideSettings

_MOST = 100  # categories of a column that get a number of their own
_RARE = 3  # images of a category; with fewer it is an "other"
_FAR = 10.0  # deviations; what lies further out counts as this far
_DAY, _YEAR = 86_400.0, 365.25  # seconds, days


@dataclass(frozen=True)
class ColumnCode:
    """How one column becomes numbers."""

    kind: Kind
    names: tuple[str, ...]
    mean: float = 0.0  # of training rows: of numbers, or of times in seconds since 1970
    deviation: float = 0.0  # 0: all alike, they say nothing
    missing: bool = False  # training rows lack it: one number more says which
    clock: bool = False  # times have an hour, too
    categories: tuple[str, ...] = ()  # each has a number of its own, and all others have one

    @property
    def width(self) -> int:
        """How many numbers it becomes."""
        if self.kind == "categorical":
            return len(self.categories) + 1  # a row without a value is all zeros
        plain = {"numeric": 1, "time": 5 if self.clock else 3, "place": 4}[self.kind]
        return plain + self.missing


@dataclass(frozen=True)
class SideEncoding:
    """How side information becomes numbers; equal rows become equal numbers, today or later."""

    settings: SideSettings
    text: int  # dimensions of the text vectors; 0: no text
    columns: tuple[ColumnCode, ...]

    @property
    def width(self) -> int:
        """S."""
        return self.text + sum(code.width for code in self.columns)

    def as_json(self) -> dict[str, Any]:
        """Return it as data that `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "SideEncoding":
        """Return what `as_json` gave, also after a way through JSON."""
        codes = (
            {**code, "names": tuple(code["names"]), "categories": tuple(code["categories"])}
            for code in data["columns"]
        )
        columns = tuple(ColumnCode(**code) for code in codes)
        return cls(SideSettings(**data["settings"]), int(data["text"]), columns)


def fit_column(column: Column, rows: pl.DataFrame) -> ColumnCode:
    """Fit the code of a column to training rows, as `columns.values` returns them."""
    lacking = bool(_absent(rows).any())
    if column.kind == "categorical":
        counts = Counter(rows.to_series().drop_nulls().to_list())
        common = [(-n, value) for value, n in counts.items() if n >= _RARE]
        kept = sorted(value for _, value in sorted(common)[:_MOST])
        return ColumnCode(column.kind, column.names, categories=tuple(kept))
    if column.kind == "place":
        return ColumnCode(column.kind, column.names, missing=lacking)
    numbers, clock = rows.to_series().drop_nulls(), False
    if column.kind == "time":
        clock = bool((numbers.dt.time() != time.min).any()) if len(numbers) else False
        numbers = numbers.dt.epoch("us") / 1e6
    there = numbers.to_numpy().astype(np.float64)
    mean = float(there.mean()) if len(there) else 0.0
    # Of equal numbers the mean may be off by a rounding, and the deviation no zero.
    deviation = float(there.std()) if len(np.unique(there)) > 1 else 0.0
    return ColumnCode(column.kind, column.names, mean, deviation, lacking, clock)


def encode_column(code: ColumnCode, rows: pl.DataFrame) -> Floats:
    """Return the numbers (n, width) of rows, as `columns.values` returns them.

    A place is sin and cos of pi latitude / 90 and of pi longitude / 180, as in Dynamic MLP (Yang
    et al., CVPR 2022): the poles are one and the same, for latitude is no circle.
    """
    absent = _absent(rows)
    if code.kind == "categorical":
        return _one_hot(code, rows.to_series().to_list())
    if code.kind == "place":
        latitude, longitude = (_filled(rows[name]) for name in code.names)
        parts = [*_circle(latitude / 180), *_circle(longitude / 360)]
    elif code.kind == "numeric":
        parts = [_standard(code, _filled(rows.to_series()))]
    else:
        parts = _of_times(code, rows.to_series())
    numbers = np.stack(parts, axis=1)
    numbers[absent] = 0.0
    if code.missing:
        numbers = np.concatenate([numbers, absent[:, None]], axis=1)
    return numbers.astype(np.float32)


def _of_times(code: ColumnCode, times: pl.Series) -> list[Doubles]:
    seconds = _filled(times.dt.epoch("us").cast(pl.Float64)) / 1e6
    in_day = np.mod(seconds, _DAY) / _DAY
    in_year = (_filled(times.dt.ordinal_day()) - 1 + in_day) / _YEAR
    parts = [_standard(code, seconds), *_circle(in_year)]
    return [*parts, *_circle(in_day)] if code.clock else parts


def _circle(turns: Doubles) -> tuple[Doubles, Doubles]:
    return np.sin(2 * np.pi * turns), np.cos(2 * np.pi * turns)


def _standard(code: ColumnCode, numbers: Doubles) -> Doubles:
    if not code.deviation:
        return np.zeros_like(numbers)
    return np.clip((numbers - code.mean) / code.deviation, -_FAR, _FAR)


def _one_hot(code: ColumnCode, given: list[str | None]) -> Floats:
    place = {value: column for column, value in enumerate(code.categories)}
    numbers = np.zeros((len(given), code.width), np.float32)
    for row, value in enumerate(given):
        if value is not None:
            numbers[row, place.get(value, code.width - 1)] = 1.0
    return numbers


def _absent(rows: pl.DataFrame) -> Bools:
    """Tell which rows lack a value, or one of the two of a place."""
    lacking: Bools = rows.select(pl.any_horizontal(pl.all().is_null())).to_series().to_numpy()
    return lacking


def _filled(series: pl.Series) -> Doubles:
    return series.cast(pl.Float64).fill_null(0.0).to_numpy().astype(np.float64)
