"""One place that holds every table, index and model of one encoder: a folder or a bucket's prefix.

A part carries in its own metadata the fingerprint of what made it, so that data and "done" marker
are one file. What is read is checked: a file that is not as it was written raises
DamagedFileError, which names it. `Store` knows tables, not stages.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import parts as part_files
from pipeline.errors import DamagedFileError, InputError, StoreError
from pipeline.folder import Folder, LocalFolder
from pipeline.identity import EncoderIdentity, difference, digest
from pipeline.tables import schema_of

R = TypeVar("R")
Look = Callable[[pq.ParquetFile], R]

FORMAT = 2
LOCK = ".lock"
IDENTITY = "store.json"
CHECK = "check"
_FINGERPRINT = "pseudolabel.fingerprint"
STORE = "pseudolabel.store"  # every part says whose it is
_ATTEMPTS = 5  # of a reader whose parts are being merged meanwhile
_READERS = 8


class Store:
    """The tables and files of one encoder."""

    def __init__(self, folder: Folder) -> None:
        """Use `open_store` or `create_store`, which check what is there first."""
        self.folder = folder
        self.location = folder.location
        self._identity: EncoderIdentity | None = None

    @property
    def local(self) -> Path | None:
        """The store's folder, where it is one of this machine."""
        return self.folder.root if isinstance(self.folder, LocalFolder) else None

    # -- identity ------------------------------------------------------------------------------

    def identity(self) -> EncoderIdentity | None:
        """Return the encoder whose embeddings the store holds; None before the first."""
        if self._identity is None:  # once claimed it never changes
            encoder = self.get_json(IDENTITY).get("encoder")
            self._identity = EncoderIdentity(**encoder) if isinstance(encoder, dict) else None
        return self._identity

    def claim(self, encoder: EncoderIdentity, model: str = "") -> None:
        """Record the encoder, or refuse to mix it with another one.

        Args:
            encoder: what it is.
            model: the name that loads it, kept so that a query need not repeat it.

        Raises:
            InputError: the store holds embeddings of another encoder; both are named.
        """
        if self.identity() is None:
            content = {"format": FORMAT, "encoder": asdict(encoder), "model": model}
            self.put_json(IDENTITY, content)
        self.require(encoder)

    def require(self, encoder: EncoderIdentity) -> None:
        """Raise InputError over an encoder whose vectors the store's cannot be compared with."""
        held = self.identity()
        if held is not None and held != encoder:
            raise InputError(
                f"{self.location} holds embeddings of {held}, but this run uses {encoder}: vectors "
                f"of two encoders cannot be compared ({difference(held, encoder)}). "
                "Use that model, or another store."
            )

    # -- parts ---------------------------------------------------------------------------------

    def parts(self, table: str) -> list[str]:
        """Return the names of a table's parts, oldest first, without those merged into another."""
        return part_files.in_force(self.all_parts(table))

    def all_parts(self, table: str) -> list[str]:
        """Return the names of all parts, those merged into another one among them."""
        names = self.folder.names(table)
        return [n.removesuffix(".parquet") for n in names if n.endswith(".parquet")]

    def state(self, *tables: str) -> str:
        """Return a digest of which parts the tables hold, however merged; parts never change."""
        return digest({table: part_files.name_sum(self.parts(table)) for table in tables})

    def write_part(self, table: str, part: str, rows: pa.Table, fingerprint: str = "") -> None:
        """Commit `rows` as one immutable part; a part of that name is replaced at once."""
        about = {_FINGERPRINT: fingerprint, STORE: json.dumps(self.get_json(IDENTITY))}
        self.put(part_name(table, part), part_files.encode(rows, about))

    def fingerprint(self, table: str, part: str) -> str | None:
        """Return the fingerprint a part was written with; None when there is no such part."""
        about = self.about(table, part)
        return None if about is None else about.get(_FINGERPRINT, "")

    def rows(self, table: str, *parts: str) -> int:
        """Return how many rows some parts have together."""
        return sum(self._with_part(table, p, lambda held: held.metadata.num_rows) for p in parts)

    def about(self, table: str, part: str) -> dict[str, str] | None:
        """Return what a part's metadata say; None when there is no such part."""
        try:
            return self._with_part(table, part, part_files.about)
        except FileNotFoundError:
            return None

    def read(
        self, table: str, columns: Sequence[str] | None = None, parts: Iterable[str] | None = None
    ) -> pl.DataFrame:
        """Read a table, oldest part first; an absent table is empty.

        Args:
            table: such as "files".
            columns: the ones wanted; all when None. Leave out `embedding` where you can.
            parts: only these; all when None.

        Raises:
            DamagedFileError: a part is not as it was written.
        """
        if parts is not None:
            return self._read_parts(table, list(parts), columns)
        return self.steadily(lambda: self._read_parts(table, self.parts(table), columns))

    def read_part(self, table: str, part: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read one part; raises as `look_into`."""
        wanted = None if columns is None else list(columns)
        return self.look_into(table, part, lambda held: held.read(columns=wanted))

    def look_into(self, table: str, part: str, look: Look[R], buffer: int = 0) -> R:
        """Call `look` on an open part, and from its start again after trouble on the way.

        Of each column `buffer` bytes are read at a time; with 0 all of it.

        Raises:
            DamagedFileError: it is not as it was written.
            FileNotFoundError: it is not there, or not any more.
        """
        schema = self._schema(table)

        def checked(held: pq.ParquetFile) -> R:
            if not held.schema_arrow.equals(schema):
                raise StoreError(f"{part_name(table, part)}: has not the columns of its table")
            return look(held)

        return self._with_part(table, part, checked, buffer)

    def steadily(self, look: Callable[[], R]) -> R:
        """Call `look` again where a file it had found was merged or replaced under its hands."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return look()
            except FileNotFoundError:
                continue
        try:
            return look()
        except FileNotFoundError as error:
            raise self.damaged(str(error), "it is named and not there") from error

    def _read_parts(
        self, table: str, parts: list[str], columns: Sequence[str] | None
    ) -> pl.DataFrame:
        empty = self._schema(table).empty_table()
        names = empty.column_names if columns is None else list(columns)

        with ThreadPoolExecutor(_READERS, thread_name_prefix="read") as pool:
            read = pool.map(lambda part: self.read_part(table, part, names).select(names), parts)
            return pl.DataFrame(pl.from_arrow(pa.concat_tables([empty.select(names), *read])))

    def _schema(self, table: str) -> pa.Schema:
        identity = self.identity()
        return schema_of(table, identity.dimension if identity else 1)

    def _with_part(self, table: str, part: str, look: Look[R], buffer: int = 0) -> R:
        name = part_name(table, part)
        try:
            with self.folder.filesystem.open_input_file(self.folder.full(name)) as file:
                return look(part_files.open_part(file, buffer))
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            data = self.get(name)  # damage, or only trouble on the way here: its bytes decide
            if data is None:
                raise FileNotFoundError(name) from error
            try:
                part_files.check_whole(data)
            except part_files.DamagedPartError as damage:
                raise self.damaged(name, str(damage)) from error
            return look(part_files.open_part(pa.BufferReader(data)))

    # -- other files ---------------------------------------------------------------------------

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Commit a whole file under `name`: after a power cut it is complete or as it was."""
        self.folder.write(name, data)

    def get(self, name: str) -> bytes | None:
        """Return a whole file; None when there is none."""
        return self.folder.read(name)

    def delete(self, name: str) -> None:
        """Remove a file; that there is none is fine."""
        self.folder.delete(name)

    def put_json(self, name: str, content: dict[str, object]) -> None:
        """Commit `content` as indented JSON, with a checksum of itself."""
        plain = json.loads(json.dumps(content))
        sealed = {**plain, CHECK: digest(plain)}
        self.put(name, json.dumps(sealed, indent=2, ensure_ascii=False).encode())

    def get_json(self, name: str) -> dict[str, object]:
        """Read a JSON object without its checksum; an absent file is an empty one.

        Raises:
            DamagedFileError: the file is not as it was written.
        """
        data = self.get(name)
        if data is None:
            return {}
        try:
            content = json.loads(data)
        except ValueError as error:
            raise self.damaged(name, f"it is no JSON: {error}") from error
        if not isinstance(content, dict) or content.pop(CHECK, None) != digest(content):
            raise self.damaged(name, "it does not match its checksum")
        return content

    def damaged(self, name: str, why: str) -> DamagedFileError:
        """Return the error to raise over a file that is not as it was written."""
        return DamagedFileError(self.location, name, why)


def part_name(table: str, part: str) -> str:
    """Return the name of a part's file in the store."""
    return f"{table}/{part}.parquet"
