"""A million known files: what one more run costs before it reads anything, and what asking costs.

    python tests/benchmarks/bench_scan.py [--files N] [--repeat N] [--folder DIR]

Makes N empty files and a store that knows them all (rows, not pixels), and removes both. Each step
runs in a process of its own, so that its peak of memory is its own, libraries included (some 200
MB); their imports are not timed. Of several tries the fastest is told, and the largest peak.
"""

import argparse
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from flows.plan import plan
from pipeline.catalog import current_files
from pipeline.config import make_config
from pipeline.identity import EncoderIdentity
from pipeline.images.scan import Rules, compare, find_changes, record_changes
from pipeline.images.sources import list_sources
from pipeline.label_set import LabelSet, LabelVectors
from pipeline.labels.labelling import label
from pipeline.labels.question import Question
from pipeline.opening import create_store, open_store
from pipeline.reports.export import export
from pipeline.reports.status import status
from pipeline.store import Store
from pipeline.tables import FILES, embeddings
from pipeline.vectors import to_column

Step = Callable[[Path, Path], int]

PER_FOLDER = 1000
PART_ROWS = 8192  # as run.shard_rows
WIDTH = 8  # of the vectors; a real model has 512 and more, which no step here reads
NOW = datetime.now(UTC) + timedelta(days=1)  # every file has settled
KNOWN = ["path", "source", "bytes", "mtime", "status", "reason"]  # as scan reads them
_started = [0.0]
IDENTITY = EncoderIdentity("bench", "0" * 32, "none", WIDTH, 10.0, None)


def make_files(folder: Path, count: int) -> None:
    """Make empty files, PER_FOLDER in each folder."""
    for number in range(-(-count // PER_FOLDER)):
        inner = folder / f"photos-{number:05}"
        inner.mkdir(parents=True)
        at = os.open(inner, os.O_RDONLY)
        for file in range(min(PER_FOLDER, count - number * PER_FOLDER)):
            name = f"image-{number:05}-{file:04}.jpg"
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=at))
        os.close(at)


def make_store(source: Path, location: Path) -> int:
    """Make a store that has seen every file and holds a vector and a label for each."""
    store = create_store(str(location))
    store.claim(IDENTITY)
    listing = list_sources((str(source),))
    rng = np.random.default_rng(0)
    for number, rows in enumerate(listing.iter_slices(PART_ROWS)):
        digits = rng.bytes(16 * len(rows)).hex()
        ids = [digits[start : start + 32] for start in range(0, len(digits), 32)]
        write_rows(store, f"20240501T120000000000-{number:05}", rows, ids, rng)
    classes = LabelSet.model_validate(
        {"name": "bench", "classes": [{"name": f"class {n}", "aliases": []} for n in range(WIDTH)]}
    )
    eye = np.eye(WIDTH, dtype=np.float32)
    text = LabelVectors(classes=eye, rejects=np.empty((0, WIDTH), np.float32))
    label(store, Question(label_set=classes, top_k=5, abstain_below=0.0), text)
    return len(listing)


def write_rows(
    store: Store, part: str, rows: pl.DataFrame, ids: list[str], rng: np.random.Generator
) -> None:
    """Write one part of `files` and one of `embeddings`."""
    vectors = rng.normal(size=(len(ids), WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    size = pa.array([224] * len(ids), pa.int32())
    about = [pa.array(ids), size, size, pa.array(["JPEG"] * len(ids))]
    columns = [*about, to_column(vectors.astype(np.float16))]
    store.write_part("embeddings", part, pa.table(columns, schema=embeddings(WIDTH)))
    seen = rows.drop("problem").with_columns(
        pl.Series("image_id", ids),
        status=pl.lit("ok"),
        reason=pl.lit(None, pl.String),
        run_id=pl.lit(part.split("-")[0]),
        seen_at=pl.lit(NOW),
    )
    store.write_part("files", part, seen.select(FILES.names).to_arrow().cast(FILES))


# -- the steps -----------------------------------------------------------------------------------


def walk(source: Path, location: Path) -> int:
    """What no listing can do without: name every entry and ask the system for size and time."""
    found, waiting = 0, [str(source)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                entry.stat()
                if entry.is_dir():
                    waiting.append(entry.path)
                else:
                    found += 1
    return found


def list_all(source: Path, location: Path) -> int:
    """List the source."""
    return len(list_sources((str(source),)))


def compare_all(source: Path, location: Path) -> int:
    """Read what the store knows, and compare the listing with it; the listing is not timed."""
    listing = list_sources((str(source),))
    restart()
    known = current_files(open_store(str(location)), KNOWN)
    rules = Rules(NOW, settle_seconds=30)
    found = compare(listing, known, scanned=[str(source)], rules=rules)
    if found.any:
        raise RuntimeError(f"{len(found.to_read)} files to read: the benchmark is wrong")
    return found.listed


def scan(source: Path, location: Path) -> int:
    """List, remember, compare, record: all that a run without news does."""
    store = open_store(str(location))
    changes = find_changes(store, (str(source),), settle_seconds=30, now=NOW)
    record_changes(store, changes, run_id="20250101T000000000000", now=NOW, shard_rows=PART_ROWS)
    if changes.any:
        raise RuntimeError(f"{len(changes.to_read)} files to read: the benchmark is wrong")
    return changes.listed


def scan_new(source: Path, location: Path) -> int:
    """The same for a new store: every file is new, and a plan is written for all."""
    store = create_store(f"{location}-new")
    changes = find_changes(store, (str(source),), settle_seconds=30, now=NOW)
    record_changes(store, changes, run_id="20250101T000000000000", now=NOW, shard_rows=PART_ROWS)
    return changes.new


def run_with_nothing_new(source: Path, location: Path) -> int:
    """All that `pseudolabel run` does before it finds that there is nothing to do."""
    values = {"store": str(location), "sources": [str(source)], "labels": {"label_set": "a,b"}}
    return plan(make_config(values)).known


def ask_status(source: Path, location: Path) -> int:
    """`pseudolabel status`."""
    return status(open_store(str(location))).files["ok"]


def export_parquet(source: Path, location: Path) -> int:
    """`pseudolabel export --format parquet`."""
    return export(open_store(str(location)), location.parent / "labels.parquet", "parquet").rows


def restart() -> None:
    """Begin to count the seconds of a step only here."""
    _started[0] = time.perf_counter()


def measured(step: Step, source: Path, location: Path) -> tuple[int, float, float]:
    """Return rows, seconds, and MB at the peak."""
    restart()
    rows = step(source, location)
    seconds = time.perf_counter() - _started[0]
    # Not ru_maxrss, which a process takes over from the one that started it.
    told = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return rows, seconds, int(told.split()[0]) / 1024


def in_own_process(step: Step, source: Path, location: Path) -> tuple[int, float, float]:
    """Measure a step in a new process."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as alone:
        return alone.submit(measured, step, source, location).result()


STEPS = (
    walk,
    list_all,
    compare_all,
    scan,
    run_with_nothing_new,
    scan_new,
    ask_status,
    export_parquet,
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3, help="tries of each step")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: /tmp")
    asked = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="bench-scan-", dir=asked.folder))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, Python"
    sys.stdout.write(f"{asked.files:,} files; {machine} {platform.python_version()}, Polars ")
    sys.stdout.write(f"{pl.__version__}\n{'step':<16}{'rows':>11}{'s':>8}{'rows/s':>12}{'MB':>7}\n")
    took: dict[str, float] = {}
    try:
        source, location = root / "in", root / "store"
        make_files(source, asked.files)
        in_own_process(make_store, source, location)
        for step in STEPS:
            tries = [in_own_process(step, source, location) for _ in range(asked.repeat)]
            rows, seconds, peak = tries[0][0], min(t[1] for t in tries), max(t[2] for t in tries)
            took[step.__name__] = seconds
            line = f"{step.__name__:<16}{rows:>11,}{seconds:>8.2f}{rows / seconds:>12,.0f}"
            sys.stdout.write(f"{line}{peak:>7.0f}\n")
        sys.stdout.write(f"listing / walking: {took['list_all'] / took['walk']:.2f}\n")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
