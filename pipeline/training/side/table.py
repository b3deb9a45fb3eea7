"""A user's table of side information: read, and its rows found for the images they are about.

Shapes: N images.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from pipeline.arrays import Ints
from pipeline.catalog import current_files
from pipeline.errors import InputError
from pipeline.homes import without_tilde
from pipeline.images.paths import name_of, path_text, whole_path
from pipeline.store import Store

KEYS = ("path", "image_id")


def read_table(what: str, file: str, needed: Sequence[str] = ()) -> pl.DataFrame:
    """Read a CSV file, all columns as text, or a Parquet file, columns as they are.

    Args:
        what: it is, for errors.
        file: ending in .parquet, or else a CSV file.
        needed: columns beside path or image_id.

    Raises:
        InputError: it cannot be read, or a column is missing.
    """
    path = without_tilde(file)
    kind = "Parquet" if path.suffix.casefold() in (".parquet", ".pq") else "CSV"
    try:
        data = path.read_bytes()
        frame = pl.read_parquet(data) if kind == "Parquet" else _read_csv(data)
    except (OSError, UnicodeDecodeError, PolarsError) as error:
        raise InputError(f"{what} {file}: cannot be read as {kind}: {error}") from error
    if not set(needed) <= set(frame.columns) or not set(KEYS) & set(frame.columns):
        wanted = " and ".join(["path (or image_id)", *needed])
        columns = "columns" if needed else "column"
        raise InputError(f"{what} {file}: needs the {columns} {wanted}, has {frame.columns}")
    return frame


def _read_csv(data: bytes) -> pl.DataFrame:
    data.decode()  # polars would not say where it is no UTF-8
    return pl.read_csv(data, infer_schema=False, raise_if_empty=False)


def find_rows(
    what: str, file: str, table: pl.DataFrame, store: Store, images: pl.DataFrame
) -> Ints:
    """Find the row of each image, by its id, a path of it as it stands or whole, or a file's name.

    Args:
        what: the table is, for errors.
        file: it was read from.
        table: with the column path or image_id.
        store: tells under which other paths an image lies.
        images: image_id and path of N images.

    Returns:
        (N,) rows of the table; -1: none.

    Raises:
        InputError: two rows are of one path or image id.
    """
    place: dict[str, int] = {}
    for column in (key for key in KEYS if key in table.columns):
        place |= _places(what, file, column, table[column].cast(pl.String).to_list())
    found = np.full(len(images), -1, np.int64)
    if not place:
        return found
    others = _other_paths(store, images)
    for row, (image_id, path) in enumerate(images.select("image_id", "path").iter_rows()):
        paths = [path, *others.get(image_id, ())]
        names = [image_id, *paths, *(name_of(path) for path in paths)]
        found[row] = next((place[name] for name in names if name in place), -1)
    return found


def _places(what: str, file: str, column: str, keys: Sequence[str | None]) -> dict[str, int]:
    place: dict[str, int] = {}
    for row, key in enumerate(keys):
        if not key:
            continue
        names = {key, path_text(whole_path(key))} if column == "path" else {key}
        for name in names:
            if place.setdefault(name, row) != row:
                raise InputError(
                    f"{what} {file}: {column} {key!r} stands in rows {place[name] + 1} and "
                    f"{row + 1} (the header not counted): keep one row of each image"
                )
    return place


def _other_paths(store: Store, images: pl.DataFrame) -> dict[str, list[str]]:
    """Return the paths of images that lie under several."""
    files = current_files(store, ["image_id", "status"]).filter(pl.col("status") == "ok")
    several = files.filter(pl.len().over("image_id") > 1).sort("path")
    known = several.join(images.select("image_id").unique(), on="image_id", how="semi")
    groups = known.group_by("image_id", maintain_order=True).agg("path")
    return dict(groups.select("image_id", "path").iter_rows())
