"""Answers to queries as a file: Parquet or CSV, one row per image, written as they come."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import polars as pl
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.folder import LocalFolder

FORMATS = (".parquet", ".csv")


_ROWS = 1 << 16  # written at once, or each query would be a row group of its own


def require_format(out: Path) -> None:
    """Raise InputError over a file that `hits_file` cannot write."""
    if out.suffix.lower() not in FORMATS:
        raise InputError(f"{out}: name a file that ends in {' or '.join(FORMATS)}")
    if out.is_dir():
        raise InputError(f"{out}: is a folder; name a file")


@contextmanager
def hits_file(out: Path) -> Iterator["HitsWriter"]:
    """Write the rows given inside the block; the file appears when all are there, or not at all.

    Raises:
        InputError: the name does not end in .parquet or .csv.
    """
    require_format(out)
    with LocalFolder(out.parent).placing(out.name) as temporary, temporary.open("wb") as file:
        writer = HitsWriter(file, parquet=out.suffix.lower() == ".parquet")
        yield writer
        writer.close()


class HitsWriter:
    """Takes the answer to one query after another."""

    def __init__(self, file: IO[bytes], *, parquet: bool) -> None:
        """Use `hits_file`."""
        self._file, self._is_parquet = file, parquet
        self._parquet: pq.ParquetWriter | None = None
        self._begun = False
        self._waiting: list[pl.DataFrame] = []

    def write(self, hits: pl.DataFrame) -> None:
        """Take some more rows, always of the same columns."""
        self._waiting.append(hits)
        if sum(map(len, self._waiting)) >= _ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        if self._parquet is not None:
            self._parquet.close()

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows = pl.concat(self._waiting)
        self._waiting = []
        if self._is_parquet:
            table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
            if self._parquet is None:
                self._parquet = pq.ParquetWriter(self._file, table.schema)
            self._parquet.write_table(table)
        else:
            rows.write_csv(self._file, include_header=not self._begun)
        self._begun = True
