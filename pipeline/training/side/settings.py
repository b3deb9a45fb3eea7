"""Which side information is used, and what it is made of now. Light: a dry run imports it."""

import hashlib
from dataclasses import asdict, dataclass

from pipeline.captions import current_captions
from pipeline.homes import without_tilde
from pipeline.identity import digest
from pipeline.store import Store

NONE, FILE_NAME, SHARDS, CAPTIONS = "none", "file-name", "shards", "captions"
FIELD = f"{SHARDS}:"  # before the name of a field in the key.json of tar members


@dataclass(frozen=True)
class SideSettings:
    """The knobs of side information, as in config.TrainConfig."""

    text: str = NONE  # none, file-name, captions, shards, shards:FIELD or a CSV file
    columns: str = ""  # a CSV or Parquet file; empty: none
    use: str = ""  # its columns that are taken, and their types; empty: all, types inferred

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self.text != NONE or bool(self.columns)


def side_state(store: Store, side: SideSettings) -> str:
    """Return what the side information is made of now: knobs, content of files, tables."""
    text: str | None = None
    if side.text == SHARDS or side.text.startswith(FIELD):
        text = store.state("side_info")
    elif side.text == CAPTIONS:
        run = current_captions(store)
        text = store.state(run.table) if run else None
    elif side.text not in (NONE, FILE_NAME):
        text = _content(side.text)
    return digest([asdict(side), text, _content(side.columns) if side.columns else None])


def _content(file: str) -> str | None:
    """Return the SHA-256 of a file; None when there is none, which training then tells of."""
    try:
        with without_tilde(file).open("rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest()
    except OSError:
        return None
