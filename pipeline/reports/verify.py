"""Verify: every byte of every file against its checksum, and the tables against one another."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from io import BytesIO

import numpy as np
import polars as pl
from PIL import Image

from pipeline.arrays import UNIT_TOLERANCE
from pipeline.caching import cached_arrays
from pipeline.catalog import current_files
from pipeline.errors import DamagedFileError
from pipeline.parts import DamagedPartError, check_whole
from pipeline.repair import delete_orphans, record_lost, set_aside
from pipeline.reports.openmetrics import TEXT as METRICS
from pipeline.reports.openmetrics import held_numbers, metrics_text
from pipeline.reports.run_report import PAGE_CHECK
from pipeline.search.facts import CURRENT, IndexFacts, index_facts
from pipeline.search.index import index_files, is_current, load_index
from pipeline.search.tuning import falls_short, self_test
from pipeline.store import IDENTITY, Store
from pipeline.training.freshness import HEAD_JSON, head_file
from pipeline.vectors import iterate_vectors

logger = logging.getLogger(__name__)
Progress = Callable[[int], None]
_TABLES = {
    *("files", "embeddings", "side_info", "labels", "neighbours"),
    *("selections", "audits", "captions"),
}


@dataclass(frozen=True)
class Fault:
    """Something that is not as it was written, and what was done about it."""

    file: str
    what: str
    done: str


@dataclass(frozen=True)
class VerifySummary:
    """What one verification found."""

    files: int  # checked
    bytes: int
    images: int  # vectors whose length was checked
    lost: int  # files that the next run reads again, for their vectors are gone
    faults: list[Fault]
    index: IndexFacts | None = None  # with the recall that was measured now; null: there is none


def verify(store: Store, *, now: datetime, on_progress: Progress = lambda _: None) -> VerifySummary:
    """Check a store, set aside what is damaged, and record what the next run must make again.

    Args:
        store: the store; its lock must be held.
        now: the present, with time zone.
        on_progress: told how many files were checked since it was last told.
    """
    faults = []
    sizes = {name: size for name, size in store.folder.sizes().items() if _is_ours(name)}
    if store.get(IDENTITY) is None:
        faults.append(_put_right(store, store.damaged(IDENTITY, "it is not there"), now))
    # The encoder first, then the observations: what a lost vector means is told by them.
    for name in sorted(sizes, key=lambda name: (name != IDENTITY, name[:6] != "files/", name)):
        try:
            _check(store, name)
        except DamagedFileError as error:
            faults.append(_put_right(store, error, now))
        on_progress(1)
    images, unsound = _check_vectors(store)
    faults += [_put_right(store, fault, now) for fault in unsound]
    facts = None
    if not unsound:
        facts, told = _check_index(store)
        faults += [_put_right(store, fault, now) for fault in told]
    record_lost(store, now=now)
    lost = len(current_files(store, ["status"]).filter(pl.col("status") == "lost"))
    orphans = delete_orphans(store)
    faults += [Fault(name, "made of vectors that are gone", "removed") for name in orphans]
    return VerifySummary(len(sizes), sum(sizes.values()), images, lost, faults, facts)


def _is_ours(name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and not name.startswith("damaged/")


def _put_right(store: Store, error: DamagedFileError, now: datetime) -> Fault:
    done = set_aside(store, error.name, now=now)
    logger.warning("%s: %s: %s", error.name, error.why, done)
    return Fault(error.name, error.why, done)


def _check(store: Store, name: str) -> None:
    """Check one file.

    Raises:
        DamagedFileError: it is not as it was written.
    """
    table, _, file = name.rpartition("/")
    if file.endswith(".json"):
        store.get_json(name)
        if name in (CURRENT, HEAD_JSON):
            _check_named(store, name)
        return
    data = store.get(name)
    if data is None:  # it went away meanwhile: readers and caches come and go
        return
    if file.endswith(".parquet") and table.split("/")[0] in _TABLES:
        try:
            check_whole(data)
        except DamagedPartError as error:
            raise store.damaged(name, str(error)) from error
    elif file.endswith(".npz"):
        if cached_arrays(store, name) is None:
            raise store.damaged(name, "its arrays do not match their checksums")
    elif file.endswith(".png"):
        _check_picture(store, name, data)
    else:
        _check_told(store, name, data)


def _check_told(store: Store, name: str, data: bytes) -> None:
    """Check what is told to people and monitors; where damage took its check, nothing is known."""
    folder, _, file = name.rpartition("/")
    if file == "report.html":
        written = store.get_json(f"{folder}/report.json").get(PAGE_CHECK)
        if written and hashlib.sha256(data).hexdigest() != written:
            raise store.damaged(name, "it does not match its checksum")
    elif name == METRICS:
        numbers = held_numbers(store)
        if numbers and data != metrics_text(numbers):
            raise store.damaged(name, "it does not say what metrics/numbers.json does")


def _check_named(store: Store, name: str) -> None:
    """Check the files that a pointer names with their checksums."""
    for file, checksum in (index_files(store) if name == CURRENT else head_file(store)).items():
        data = store.get(file)
        if data is None:
            raise store.damaged(name, f"it names {file}, which is not there")
        if hashlib.sha256(data).hexdigest() != checksum:
            raise store.damaged(file, "it does not match its checksum")


def _check_picture(store: Store, name: str, data: bytes) -> None:
    try:
        with Image.open(BytesIO(data)) as image:
            image.verify()  # PNG has a CRC-32 per chunk
    except Exception as error:
        raise store.damaged(name, f"{type(error).__name__}: {error}") from error


def _check_vectors(store: Store) -> tuple[int, list[DamagedFileError]]:
    """Check that vectors are of unit length; none is NaN."""
    images, faults = 0, []
    for part, _, vectors in iterate_vectors(store):
        lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)
        images += len(lengths)
        if not np.all(np.abs(lengths - 1) <= 2 * UNIT_TOLERANCE):
            name = f"embeddings/{part}.parquet"
            faults.append(store.damaged(name, "a vector is not of unit length"))
    return images, faults


def _check_index(store: Store) -> tuple[IndexFacts | None, list[DamagedFileError]]:
    """Check that the index holds the vectors of the store, under their ids, and finds them."""
    facts = index_facts(store)
    if facts is None:
        return None, []
    index = load_index(store)
    place = {image_id: row for row, image_id in enumerate(index.ids)}
    if len(place) < len(index) or len(index) != facts.vectors:
        return facts, [store.damaged(CURRENT, "it does not hold each of its images once")]
    lacking = 0
    for _, ids, vectors in iterate_vectors(store):
        known = np.flatnonzero([image_id in place for image_id in ids])
        lacking += len(ids) - len(known)
        if not len(known):
            continue
        rows = np.array([place[ids[at]] for at in known], np.int64)
        if not np.array_equal(index.vectors(rows), vectors[known].astype(np.float32)):
            return facts, [store.damaged(CURRENT, "a vector in it is not the one of its image")]
    if lacking and is_current(store):
        return facts, [store.damaged(CURRENT, f"it lacks {lacking} images that it should hold")]
    layer, target = index.layer, facts.target
    if layer is None or target is None:
        return facts, []
    tuned = layer.tuning.near[0]
    measured = self_test(index.exact, layer.approximate, tuned)
    facts = replace(facts, recall=measured.recall)
    if falls_short(measured, min(target, tuned.recall)):
        why = f"its recall at 10 is {measured.recall:.3f}, it was {tuned.recall:.3f}"
        return facts, [store.damaged(CURRENT, why)]
    return facts, []
