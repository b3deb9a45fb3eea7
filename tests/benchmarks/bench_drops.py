"""A year of hourly drops: does a store that grew by 8,760 small drops answer as fast as a new one?

    python -m tests.benchmarks.bench_drops [--drops N] [--rows N]

Writes the rows of each drop (no pixels) as a run does, merging parts as a run does, and the same
rows as one drop into another store. Then looks at the sources of both (all that a run with nothing
new does) and exports both, in turn, and prints the ratios.
"""

import argparse
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.catalog import current_files
from pipeline.compaction import compact, small_parts
from pipeline.knobs_of_run import RunConfig
from pipeline.label_set import LabelSet, LabelVectors
from pipeline.labels.labelling import label
from pipeline.labels.question import Question
from pipeline.opening import create_store
from pipeline.reports.export import export
from pipeline.store import Store
from tests.benchmarks.bench_scan import IDENTITY, WIDTH, write_rows

CLASSES = LabelSet.model_validate(
    {"name": "bench", "classes": [{"name": f"class {n}", "aliases": []} for n in range(WIDTH)]}
)
TEXT = LabelVectors(np.eye(WIDTH, dtype=np.float32), np.empty((0, WIDTH), np.float32))
LIMITS = RunConfig()
FIRST = datetime(2025, 1, 1, tzinfo=UTC)


def take(store: Store, drop: int, rows: int, rng: np.random.Generator) -> None:
    """Write what a run over a drop of `rows` new images writes before it selects."""
    run_id = (FIRST + timedelta(hours=drop)).strftime("%Y%m%dT%H%M%S%f")
    listing = pl.DataFrame(
        {
            "path": [f"/in/{drop:05}/{row:06}.jpg" for row in range(rows)],
            "source": ["/in"] * rows,
            "bytes": [1000] * rows,
            "mtime": [FIRST] * rows,
            "problem": pl.Series([None] * rows, dtype=pl.String),
        }
    )
    digits = rng.bytes(16 * rows).hex()
    ids = [digits[start : start + 32] for start in range(0, len(digits), 32)]
    write_rows(store, f"{run_id}-00000", listing, ids, rng)
    label(store, Question(label_set=CLASSES, top_k=5, abstain_below=0.0), TEXT)


def grow(location: Path, drops: int, rows: int) -> tuple[Store, float]:
    """Return a store after some drops, and the share of the time that merging took."""
    store = create_store(str(location))
    store.claim(IDENTITY)
    rng, merging, started = np.random.default_rng(0), 0.0, time.perf_counter()
    for drop in range(drops):
        take(store, drop, rows, rng)
        if (
            max(small_parts(store, table) for table in ("files", "embeddings"))
            > LIMITS.compact_after
        ):
            began = time.perf_counter()
            compact(store, part_rows=LIMITS.part_rows)
            merging += time.perf_counter() - began
    return store, merging / (time.perf_counter() - started)


def fastest(action: Callable[[], object], tries: int = 5) -> float:
    """Return the seconds of the fastest of some tries."""
    seconds = []
    for _ in range(tries):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--drops", type=int, default=8760)
    parser.add_argument("--rows", type=int, default=10, help="new images in each drop")
    asked = parser.parse_args()
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    root = Path(tempfile.mkdtemp(prefix="bench-drops-"))
    try:
        year, share = grow(root / "year", asked.drops, asked.rows)
        once, _ = grow(root / "once", 1, asked.drops * asked.rows)
        parts = [len(store.parts("files")) for store in (once, year)]
        print(f"{asked.drops} drops of {asked.rows} images: {parts[1]} parts of files, one drop of")
        print(f"all: {parts[0]}; merging took {share:.1%} of the time of writing")
        out = root / "out.parquet"
        for name, alone, grown in (
            ("know the files", lambda: current_files(once), lambda: current_files(year)),
            ("export", lambda: export(once, out, "parquet"), lambda: export(year, out, "parquet")),
        ):
            first, later = fastest(alone), fastest(grown)
            print(f"{name:<16} {first:.3f} s and {later:.3f} s, ratio {later / first:.2f}")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
