"""Captions: which table of them is in force, what it says, and which images have none yet.

Every model, and every way of asking it, has a table `captions/<fingerprint>` of its own, so that
the words of two never mix and a change of model that was interrupted leaves the old ones in force.
`captions/current.json` names the table that readers take.
"""

from dataclasses import asdict, dataclass

import polars as pl

from pipeline.catalog import current_files
from pipeline.identity import digest
from pipeline.store import Store

CURRENT = "captions/current.json"
GREEDY = "greedy"


@dataclass(frozen=True)
class CaptionRun:
    """What wrote the captions of a table."""

    table: str
    model: str  # the name that loaded it
    weights: str  # their digest
    way: str  # as `way_of` tells it


def way_of(sample: bool, seed: int) -> str:
    """Say in words how captions are written.

    >>> way_of(False, 3), way_of(True, 3)
    ('greedy', 'sampled, seed 3')
    """
    return f"sampled, seed {seed}" if sample else GREEDY


def captions_table(weights: str, preprocessing: str, way: str) -> str:
    """Name the table of what some weights write in some way; a model's name plays no part."""
    return f"captions/{digest([weights, preprocessing, way])}"


def current_captions(store: Store) -> CaptionRun | None:
    """Return what wrote the captions in force; None where a store has none.

    Raises:
        DamagedFileError: the pointer is not as it was written.
    """
    held = store.get_json(CURRENT)
    return CaptionRun(**{name: str(value) for name, value in held.items()}) if held else None


def turn_to(store: Store, run: CaptionRun) -> None:
    """Put a table in force; the store's lock must be held."""
    if current_captions(store) != run:
        store.put_json(CURRENT, {**asdict(run)})


def captions_of(store: Store) -> dict[str, str]:
    """Return the captions in force by image id, empty ones left out; none where there are none.

    Images that are gone keep theirs: they may come back.

    Raises:
        DamagedFileError: a part is not as it was written.
    """
    run = current_captions(store)
    if run is None:
        return {}
    rows = store.read(run.table, ["image_id", "caption"]).filter(pl.col("caption") != "")
    return dict(rows.iter_rows())


def uncaptioned(store: Store, table: str) -> pl.DataFrame:
    """Return the images that are there now and have no row in a table of captions.

    Returns:
        image_id, paths (list, in alphabetical order); sorted by the first path, so that what is
        left of an interrupted run is what it had not come to.
    """
    files = current_files(store, ["image_id", "status"]).filter(pl.col("status") == "ok")
    left = files.join(store.read(table, ["image_id"]), on="image_id", how="anti")
    images = left.group_by("image_id").agg(pl.col("path").sort().alias("paths"))
    return images.sort(pl.col("paths").list.first())
