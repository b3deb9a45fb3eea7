"""Columns of a table of side information: which of them are taken, as what, and their values.

Four kinds: numeric; categorical; time (ISO 8601, or as EXIF writes it); place (two columns,
latitude and longitude in degrees).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import polars as pl

from pipeline.errors import InputError
from pipeline.training.side.table import KEYS
from pipeline.training.side.words import without

Kind = Literal["numeric", "categorical", "time", "place"]
_LATITUDE, _LONGITUDE = ("lat", "latitude"), ("lon", "lng", "long", "longitude")
_SAID = ("numeric", "categorical", "time", "lat", "lon")  # what a user may call a column
_LIMIT = {"lat": 90.0, "lon": 180.0}  # degrees either side of zero
_HUGE = 1e100  # whose square is finite, so that deviations are
_FREE_TEXT = 50  # distinct values, from which a column whose values mostly differ is no category


@dataclass(frozen=True)
class Column:
    """One column, or the two of a place."""

    kind: Kind
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{' and '.join(self.names)} ({self.kind})"


@dataclass(frozen=True)
class Choice:
    """Which columns are taken, and what is to be told of the others."""

    columns: tuple[Column, ...]
    told: tuple[str, ...]


def choose(table: pl.DataFrame, use: str, file: str) -> Choice:
    """Choose columns and tell their kinds.

    Args:
        table: as `table.read_table` returns it.
        use: names with commas between them, `name:kind` where the guess would be wrong (kinds:
            numeric, categorical, time, lat, lon), `*` for all others; empty: all.
        file: it was read from.

    Raises:
        InputError: a column is not there, or there is none to take.
    """
    there = [name for name in table.columns if name not in KEYS]
    said = _said(there, use, file)
    told, kinds = [], {}
    for name, kind in said.items():
        found, why_not = (kind, "") if kind else _guess(name, table[name])
        if found:
            kinds[name] = found
        else:
            told.append(f"{name} is not taken: {why_not}")
    latitudes = [name for name, kind in kinds.items() if kind == "lat"]
    longitudes = [name for name, kind in kinds.items() if kind == "lon"]
    if len(latitudes) != 1 or len(longitudes) != 1:
        asked = [n for n in latitudes + longitudes if said[n]]
        if asked:
            raise InputError(
                f"side columns {file}: a place is one column of latitudes and one of longitudes, "
                f"not {latitudes} and {longitudes}: say `name:lat` and `name:lon` in train.side_use"
            )
        kinds |= dict.fromkeys(latitudes + longitudes, "numeric")
    columns = []
    for name, kind in kinds.items():
        if kind == "lat":
            columns.append(Column("place", (name, longitudes[0])))
        elif kind != "lon":
            columns.append(Column(cast(Kind, kind), (name,)))
    if not columns:
        raise InputError(
            f"side columns {file}: no column can be used, beside {' and '.join(KEYS)} it has "
            f"{there}; say which in train.side_use. {'; '.join(told)}"
        )
    return Choice(tuple(columns), tuple(told))


def values(table: pl.DataFrame, column: Column, file: str) -> pl.DataFrame:
    """Return a column's values, checked: Float64, String or Datetime; null where there is none.

    Args:
        table: as `table.read_table` returns it.
        column: what is wanted of it.
        file: it was read from.

    Raises:
        InputError: the column is not there, or a value is not of its kind; both are named.
    """
    missing = [name for name in column.names if name not in table.columns]
    if missing:
        raise InputError(
            f"side columns {file}: has no column {missing[0]!r}, which the head was trained with; "
            f"it has {table.columns}"
        )
    if column.kind == "place":
        limits = zip(column.names, _LIMIT.values(), strict=True)
        return pl.DataFrame([_numbers(table[name], file, limit) for name, limit in limits])
    series = table[column.names[0]]
    if column.kind == "numeric":
        return pl.DataFrame([_numbers(series, file, _HUGE)])
    return pl.DataFrame([_times(series, file) if column.kind == "time" else _strings(series)])


def mask(categories: pl.DataFrame, words: Sequence[str]) -> tuple[pl.DataFrame, int]:
    """Take the words of labels out of categories; what is nothing else becomes null.

    Returns:
        The categories, and how many rows were changed.
    """
    [name] = categories.columns
    distinct = categories[name].drop_nulls().unique().to_list()
    left = {value: without(value, words) for value in distinct}
    plain = {value: without(value, ()) for value in distinct}
    changed = {value: left[value] or None for value in distinct if left[value] != plain[value]}
    if not changed:
        return categories, 0
    rows = int(categories[name].is_in(list(changed)).sum())
    masked = [changed.get(value, value) for value in categories[name].to_list()]
    return pl.DataFrame({name: masked}, schema={name: pl.String}), rows


def _said(there: list[str], use: str, file: str) -> dict[str, str]:
    """Return the columns that are wanted, and their kinds where these are said."""
    said: dict[str, str] = {}
    asked = [item.strip() for item in use.split(",") if item.strip()] or ["*"]
    for item in asked:
        name, _, kind = item.rpartition(":")
        if item in there or kind not in _SAID:
            name, kind = item, ""
        if name != "*" and name not in there:
            raise InputError(
                f"side columns {file}: train.side_use names {item!r}, but the columns are {there}; "
                f"a kind is one of {', '.join(_SAID)}"
            )
        said[name] = kind
    if "*" in said:
        del said["*"]
        said |= {name: "" for name in there if name not in said}
    return said


def _guess(name: str, series: pl.Series) -> tuple[str, str]:
    """Return what a column's values look like; or nothing, and why."""
    if series.dtype.is_numeric() or series.dtype.is_decimal():
        return _place_or("numeric", name), ""
    if series.dtype.is_temporal() and series.dtype not in (pl.Time, pl.Duration):
        return "time", ""
    if series.dtype not in (pl.String, pl.Boolean, pl.Categorical, pl.Enum):
        return "", f"{series.dtype} is no kind of value that can be used"
    given = _strings(series).drop_nulls()
    if given.is_empty():
        return "", "it is empty"
    if given.cast(pl.Float64, strict=False).null_count() == 0:
        return _place_or("numeric", name), ""
    if _moments(given).null_count() == 0:
        return "time", ""
    if given.n_unique() > max(_FREE_TEXT, len(given) // 2):
        return "", f"{given.n_unique()} distinct values look like free text (see train.side_text)"
    return "categorical", ""


def _place_or(kind: str, name: str) -> str:
    plain = name.strip().casefold()
    return "lat" if plain in _LATITUDE else "lon" if plain in _LONGITUDE else kind


def _strings(series: pl.Series) -> pl.Series:
    text = series.cast(pl.String).str.strip_chars()
    return text.set(text == "", None)


def _numbers(series: pl.Series, file: str, limit: float) -> pl.Series:
    text = _strings(series)
    # Decimals and strings alike: what a number is written like is what is compared below.
    number = (
        series.cast(pl.Float64)
        if series.dtype.is_numeric()
        else text.cast(pl.Float64, strict=False)
    )
    number = number.fill_nan(None)
    nan = text.str.to_lowercase().is_in(["nan", "+nan", "-nan"])
    wrong = (text.is_not_null() & ~nan & number.is_null()) | (number.abs() > limit).fill_null(False)
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        between = f" from {-limit:g} to {limit:g}"
        raise InputError(
            f"side columns {file}: {series.name} {text[row]!r} in row {row + 1} is no number"
            f"{between}: mend it, or say `{series.name}:categorical` in train.side_use"
        )
    return number.rename(series.name)


def _times(series: pl.Series, file: str) -> pl.Series:
    if series.dtype == pl.Datetime:
        return series.dt.replace_time_zone(None).cast(pl.Datetime("us"))
    if series.dtype == pl.Date:
        return series.cast(pl.Datetime("us"))
    text = _strings(series)
    moments = _moments(text)
    wrong = text.is_not_null() & moments.is_null()
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise InputError(
            f"side columns {file}: {series.name} {text[row]!r} in row {row + 1} is no time such as "
            f"2024-05-01T12:30:00: mend it, or say `{series.name}:categorical` in train.side_use"
        )
    return moments.rename(series.name)


def _moments(text: pl.Series) -> pl.Series:
    """Return times as the clock on the wall there showed them: the sun follows it, not UTC."""
    local = text.str.replace(r"(?i)(\d\d:\d\d.*?)\s*(z|utc|[+-]\d\d:?(\d\d)?)$", "$1")
    plain = local.str.replace("T", " ", literal=True)
    frame = pl.DataFrame({"text": plain})
    written = pl.col("text")
    forms = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y:%m:%d %H:%M:%S%.f"]
    read = [written.str.to_datetime(form, time_unit="us", strict=False) for form in forms]
    day = written.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    return frame.select(pl.coalesce(*read, day)).to_series()
