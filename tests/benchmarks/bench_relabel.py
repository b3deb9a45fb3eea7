"""How near does labelling stored vectors come to reading them and one matrix product?

    python tests/benchmarks/bench_relabel.py [--rows N] [--rounds N] [--folder DIR]

Makes a store of N random unit vectors of 512 float16 in parts of --part-rows; removes it. "ours"
is the label stage: checksums, top-5, margin, entropy, a committed part of labels for each part.
"raw" is PyArrow and NumPy alone: read the column part by part, make it float32, multiply it by the
classes. They take turns, each time in a process of its own, whose peak of memory is told; the ratio
is the median of the rounds.
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
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.arrays import Floats, unit_rows
from pipeline.identity import EncoderIdentity
from pipeline.label_set import LabelSet, LabelVectors
from pipeline.labels.labelling import label
from pipeline.labels.question import Question
from pipeline.opening import create_store, open_store
from pipeline.tables import embeddings
from pipeline.vectors import to_column

Side = Callable[[Path, int], int]

WIDTH = 512
IDENTITY = EncoderIdentity("bench", "0" * 32, "none", WIDTH, 100.0, None)


def make_store(location: Path, rows: int, part_rows: int) -> None:
    """Write random unit vectors, part by part."""
    store = create_store(str(location))
    store.claim(IDENTITY)
    chance = np.random.default_rng(0)
    for number, start in enumerate(range(0, rows, part_rows)):
        count = min(part_rows, rows - start)
        vectors = unit_rows(chance.standard_normal((count, WIDTH), dtype=np.float32))
        digits = chance.bytes(16 * count).hex()
        side = pa.array(np.full(count, 224, np.int32))
        columns = [
            pa.array([digits[at : at + 32] for at in range(0, len(digits), 32)]),
            *(side, side, pa.array(["JPEG"] * count)),
            to_column(vectors.astype(np.float16)),
        ]
        table = pa.table(columns, schema=embeddings(WIDTH))
        store.write_part("embeddings", f"20240501T120000000000-{number:05}", table)


def text_vectors(classes: int) -> Floats:
    """Return a random unit vector per class."""
    return unit_rows(np.random.default_rng(1).standard_normal((classes, WIDTH), dtype=np.float32))


def ours(location: Path, classes: int) -> int:
    """Label every vector of the store."""
    names = [{"name": f"class {number}"} for number in range(classes)]
    asked = LabelSet.model_validate({"name": "bench", "classes": names})
    vectors = LabelVectors(text_vectors(classes), np.empty((0, WIDTH), np.float32))
    summary = label(
        open_store(str(location)),
        Question(label_set=asked, top_k=5, abstain_below=0.0),
        vectors,
    )
    return summary.labelled


def raw(location: Path, classes: int) -> int:
    """Read the column, and multiply it by the classes."""
    texts, rows = text_vectors(classes).T, 0
    for part in sorted((location / "embeddings").glob("*.parquet")):
        column = pq.read_table(part, columns=["embedding"])["embedding"].combine_chunks()
        halves = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, WIDTH)
        rows += len(halves.astype(np.float32) @ texts)
    return rows


def measured(side: Side, location: Path, classes: int) -> tuple[float, float]:
    """Return rows/s, and MB at the peak."""
    started = time.perf_counter()
    rows = side(location, classes)
    seconds = time.perf_counter() - started
    # Not ru_maxrss, which a process takes over from the one that started it.
    told = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return rows / seconds, int(told.split()[0]) / 1024


def in_own_process(side: Side, location: Path, classes: int) -> tuple[float, float]:
    """Measure a side in a new process, whose imports are not timed."""
    shutil.rmtree(location / "labels", ignore_errors=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as alone:
        return alone.submit(measured, side, location, classes).result()


def compare(location: Path, rows: int, part_rows: int, classes: int, rounds: int) -> None:
    """Let the two take turns, and print a line."""
    tries = []
    for number in range(rounds):
        sides = (ours, raw) if number % 2 else (raw, ours)
        tries.append({side: in_own_process(side, location, classes) for side in sides})
    ratio = median(each[ours][0] / each[raw][0] for each in tries)
    speeds = [median(each[side][0] for each in tries) for side in (ours, raw)]
    peaks = [max(each[side][1] for each in tries) for side in (ours, raw)]
    sys.stdout.write(
        f"{classes:>8,}{rows:>11,}{part_rows:>9,}{speeds[0]:>12,.0f}{speeds[1]:>12,.0f}"
    )
    sys.stdout.write(f"{ratio:>7.2f}{peaks[0]:>9,.0f}{peaks[1]:>8,.0f}\n")
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--part-rows", type=int, nargs="+", default=[65_536, 8192])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: /tmp")
    asked = parser.parse_args()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB"
    versions = (
        f"Python {platform.python_version()}, NumPy {np.__version__}, PyArrow {pa.__version__}"
    )
    sys.stdout.write(f"vectors of {WIDTH} float16; {machine}, {versions}\n")
    heads = f"{'classes':>8}{'rows':>11}{'a part':>9}{'ours rows/s':>12}{'raw rows/s':>12}"
    sys.stdout.write(f"{heads}{'ratio':>7}{'ours MB':>9}{'raw MB':>8}\n")
    for part_rows in asked.part_rows:
        root = Path(tempfile.mkdtemp(prefix="bench-relabel-", dir=asked.folder))
        try:
            make_store(root / "store", asked.rows, part_rows)
            for classes in asked.classes:
                compare(root / "store", asked.rows, part_rows, classes, asked.rounds)
        finally:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
