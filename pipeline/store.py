"""One folder that holds every table, index and model of one encoder.

A file of the store is complete or absent: it is written to a temporary name in the same folder,
flushed to the disk and renamed. A part carries in its own metadata the fingerprint of what made it,
so that data and "done" marker are one file. `Store` knows tables, not stages.
"""

import json
import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.errors import InputError, StoreError
from pipeline.identity import EncoderIdentity, difference, digest
from pipeline.tables import schema_of

FORMAT = 1
LOCK = ".lock"
TEMPORARY = ".tmp-"
_FINGERPRINT = b"pseudolabel.fingerprint"


class Store:
    """A store in a local folder; `root` holds the folder's path."""

    def __init__(self, root: Path) -> None:
        """Use `open_store` or `create_store`, which check what is there."""
        self.root = root

    # -- identity ------------------------------------------------------------------------------

    def identity(self) -> EncoderIdentity | None:
        """Return the encoder whose embeddings the store holds; None before the first."""
        encoder = self.get_json("store.json").get("encoder")
        return EncoderIdentity(**encoder) if isinstance(encoder, dict) else None

    def claim(self, encoder: EncoderIdentity, model: str = "") -> None:
        """Record the encoder, or refuse to mix it with another one.

        Args:
            encoder: what it is.
            model: the name that loads it, kept so that a query need not repeat it.

        Raises:
            InputError: as `require`.
        """
        if self.identity() is None:
            content = {"format": FORMAT, "encoder": asdict(encoder), "model": model}
            self.put_json("store.json", content)
        self.require(encoder)

    def require(self, encoder: EncoderIdentity) -> None:
        """Refuse an encoder whose vectors cannot be compared with the store's.

        Raises:
            InputError: the store holds embeddings of another encoder; both are named.
        """
        held = self.identity()
        if held is not None and held != encoder:
            raise InputError(
                f"{self.root} holds embeddings of {held}, but this run uses {encoder}: vectors of "
                f"two encoders cannot be compared ({difference(held, encoder)}). "
                "Use that model, or another store."
            )

    # -- parts ---------------------------------------------------------------------------------

    def parts(self, table: str) -> list[str]:
        """Return the names of a table's parts, oldest first."""
        folder = self.root / table
        if not folder.is_dir():
            return []
        return sorted(
            f.stem
            for f in folder.iterdir()
            if f.suffix == ".parquet" and not f.name.startswith(TEMPORARY)
        )

    def state(self, *tables: str) -> str:
        """Return a digest of which parts the tables hold; parts never change, so it tells all."""
        return digest({table: self.parts(table) for table in tables})

    def part_path(self, table: str, part: str) -> Path:
        """Return the path of a part's file."""
        return self.root / table / f"{part}.parquet"

    def write_part(self, table: str, part: str, rows: pa.Table, fingerprint: str = "") -> None:
        """Commit `rows` as one immutable part; a part of that name is replaced at once."""
        rows = rows.replace_schema_metadata({_FINGERPRINT: fingerprint.encode()})
        vectors = [f.name for f in rows.schema if pa.types.is_fixed_size_list(f.type)]
        plain = [name for name in rows.column_names if name not in vectors]
        buffer = BytesIO()
        pq.write_table(
            rows,
            buffer,
            # Unit vectors do not compress, and their minimum and maximum tell nobody anything.
            compression={name: "none" if name in vectors else "zstd" for name in rows.column_names},
            use_dictionary=plain,
            write_statistics=plain,
        )
        self.put(f"{table}/{part}.parquet", buffer.getbuffer())

    def fingerprint(self, table: str, part: str) -> str | None:
        """Return the fingerprint a part was written with; None when there is no such part."""
        path = self.part_path(table, part)
        if not path.exists():
            return None
        metadata: dict[bytes, bytes] = _part_schema(path).metadata or {}
        return metadata.get(_FINGERPRINT, b"").decode()

    def read(
        self, table: str, columns: Sequence[str] | None = None, parts: Iterable[str] | None = None
    ) -> pl.DataFrame:
        """Read a table, oldest part first; an absent table is empty.

        Args:
            table: such as "files".
            columns: the ones wanted; all when None. Leave out `embedding` where you can.
            parts: only these; all when None.
        """
        identity = self.identity()
        schema = schema_of(table, identity.dimension if identity else 1)
        paths = [
            str(self.part_path(table, part))
            for part in (self.parts(table) if parts is None else parts)
        ]
        if not paths:
            empty = schema.empty_table()
            return _frame(empty if columns is None else empty.select(list(columns)))
        try:
            dataset = ds.dataset(paths, schema=schema, format="parquet")
            return _frame(dataset.to_table(columns=None if columns is None else list(columns)))
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"{self.root / table}: a part cannot be read: {error}") from error

    # -- other files ---------------------------------------------------------------------------

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Commit a whole file under `name`: after a power cut it is complete or as it was."""
        final = self.root / name
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(final)
            _sync_folder(final.parent)  # or the rename itself may not survive a power cut
        finally:
            temporary.unlink(missing_ok=True)

    def put_json(self, name: str, content: object) -> None:
        """Commit `content` as indented JSON."""
        self.put(name, json.dumps(content, indent=2, ensure_ascii=False).encode())

    def get_json(self, name: str) -> dict[str, object]:
        """Read a JSON object; an absent file is an empty one.

        Raises:
            StoreError: the file is no JSON object.
        """
        path = self.root / name
        try:
            content = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise StoreError(f"{path}: expected a JSON object, got {type(content).__name__}")
        return content


def open_store(location: str) -> Store:
    """Open a store that exists.

    Raises:
        InputError: there is none at `location`.
        StoreError: a newer version of this program wrote it.
    """
    root = Path(location).expanduser()
    if not (root / "store.json").is_file():
        raise InputError(f"{location}: no store here; `pseudolabel run` makes one")
    store = Store(root)
    written = store.get_json("store.json").get("format")
    if written != FORMAT:
        raise StoreError(f"{location}: store format {written}, this program reads {FORMAT}")
    return store


def create_store(location: str) -> Store:
    """Open the store at `location`, making an empty one where there is nothing.

    Raises:
        InputError: something else is there.
    """
    root = Path(location).expanduser()
    if root.exists() and not (root / "store.json").exists():
        if not root.is_dir():
            raise InputError(f"{location}: is a file; a store is a folder")
        if any(entry.name != LOCK for entry in root.iterdir()):
            raise InputError(f"{location}: holds files but no store; name an empty or new folder")
    if not (root / "store.json").exists():
        Store(root).put_json("store.json", {"format": FORMAT})
    return open_store(location)


def _part_schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # a table never becomes a Series
    return frame


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
