"""What refining costs, step by step: index, neighbours, labels that similar images helped with.

    python tests/benchmarks/bench_refine.py [--rows N ...] [--classes C ...] [--folder DIR]

Makes a store of N unit vectors of 512 float16 in a crowd around every centre, and removes it. Each
step runs in a process of its own, whose peak of memory is told, and the peak of what is its own:
without the mapped files, whose pages go back when others need the room. Of the neighbours, 1,000
images' are compared with those of brute force (recall at 10).
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.arrays import unit_rows
from pipeline.identity import EncoderIdentity
from pipeline.label_set import LabelSet, LabelVectors
from pipeline.labels.labelling import label
from pipeline.labels.question import Question
from pipeline.opening import create_store, open_store
from pipeline.search.index import load_index, update_index
from pipeline.search.neighbours import load_neighbourhood, update_neighbours
from pipeline.tables import embeddings
from pipeline.vectors import to_column

WIDTH, CENTRES, PART = 512, 2000, 65_536
IDENTITY = EncoderIdentity("bench", "0" * 32, "none", WIDTH, 100.0, None)
Step = Callable[[Path, int], int]


def make_store(location: Path, rows: int) -> None:
    """Write crowds of vectors, as alike as photos of one class are: cosines of 0.6 to 0.9."""
    store = create_store(str(location))
    store.claim(IDENTITY)
    chance = np.random.default_rng(0)
    centres = unit_rows(chance.standard_normal((CENTRES, WIDTH), dtype=np.float32))
    centres = unit_rows(centres + unit_rows(centres[:1] + centres[1:2]))  # all a little alike
    for number, start in enumerate(range(0, rows, PART)):
        count = min(PART, rows - start)
        spread = chance.standard_normal((count, WIDTH), dtype=np.float32) / WIDTH**0.5
        near = centres[chance.integers(0, CENTRES, count)]
        digits = chance.bytes(16 * count).hex()
        side = pa.array(np.full(count, 224, np.int32))
        columns = [
            pa.array([digits[at : at + 32] for at in range(0, len(digits), 32)]),
            *(side, side, pa.array(["JPEG"] * count)),
            to_column(unit_rows(near + 0.6 * spread).astype(np.float16)),
        ]
        table = pa.table(columns, schema=embeddings(WIDTH))
        store.write_part("embeddings", f"20240501T120000000000-{number:05}", table)


def index(location: Path, _: int) -> int:
    """Build the index."""
    return update_index(open_store(str(location))).added


def neighbours(location: Path, _: int) -> int:
    """Search everybody's neighbours."""
    store = open_store(str(location))
    return update_neighbours(store, load_index(store))


def naive(location: Path, classes: int) -> int:
    """Label without refining."""
    return label(open_store(str(location)), question(classes, "none"), texts(classes)).labelled


def refined(location: Path, classes: int) -> int:
    """Label with the neighbours' help."""
    store = open_store(str(location))
    near = load_neighbourhood(store, load_index(store))
    return label(store, question(classes, "neighbours"), texts(classes), near=near).labelled


def question(classes: int, refine: str) -> Question:
    """Ask for that many classes."""
    names = [{"name": f"class {number}"} for number in range(classes)]
    asked = LabelSet.model_validate({"name": "bench", "classes": names})
    return Question(label_set=asked, top_k=5, abstain_below=0.0, refine=refine)  # type: ignore[arg-type]


def texts(classes: int) -> LabelVectors:
    """Return a random unit vector per class."""
    rows = np.random.default_rng(1).standard_normal((classes, WIDTH), dtype=np.float32)
    return LabelVectors(unit_rows(rows), np.empty((0, WIDTH), np.float32))


def recall(location: Path, _: int) -> float:
    """Return the share of the true 10 nearest that were found, of 1,000 images."""
    store = open_store(str(location))
    held = load_index(store)
    asked = np.random.default_rng(2).choice(len(held), 1000, replace=False)
    told = load_neighbourhood(store, held).of(asked)[0]
    true = held.search(held.vectors(asked), told.shape[1] + 1).rows
    pairs = zip(asked.tolist(), told.tolist(), true.tolist(), strict=True)
    return sum(len((set(w) - {me}) & set(t)) for me, t, w in pairs) / told.size


def measured(step: Callable[[Path, int], float], location: Path, classes: int) -> list[float]:
    """Return what the step returns, its seconds, and MB at its peak."""
    started = time.perf_counter()
    told = step(location, classes)
    seconds = time.perf_counter() - started
    return [told, seconds, megabytes(os.getpid(), "VmHWM")]


def megabytes(process: int, field: str) -> float:
    """Return what the kernel says of a process's memory."""
    told = Path(f"/proc/{process}/status").read_text().split(f"{field}:")[1]
    return int(told.split()[0]) / 1024


def alone(step: Callable[[Path, int], float], location: Path, classes: int = 0) -> list[float]:
    """Measure a step in a new process, whose imports are not timed; add MB of its own, at most."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        number, own = process.submit(os.getpid).result(), 0.0
        result = process.submit(measured, step, location, classes)
        while not result.done():  # watched from here: a thread of its own would wait for it
            own = max(own, megabytes(number, "RssAnon"))
            time.sleep(0.01)
        return [*result.result(), own]


def show(name: str, rows: float, seconds: float, peak: float, own: float) -> None:
    """Print a line."""
    speed = f"{rows:>11,.0f}{seconds:>9.1f}{rows / seconds:>11,.0f}"
    sys.stdout.write(f"{name:<28}{speed}{peak:>9,.0f}{own:>9,.0f}\n")
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 1_000_000])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: /tmp")
    asked = parser.parse_args()
    sys.stdout.write(f"{'step':<28}{'rows':>11}{'s':>9}{'rows/s':>11}{'peak MB':>9}{'own MB':>9}\n")
    for rows in asked.rows:
        root = Path(tempfile.mkdtemp(dir=asked.folder))
        try:
            make_store(root / "store", rows)
            show("index", *alone(index, root / "store"))
            show("neighbours", *alone(neighbours, root / "store"))
            for classes in asked.classes:
                show(f"label, {classes} classes", *alone(naive, root / "store", classes))
                show(f"refine, {classes} classes", *alone(refined, root / "store", classes))
            sys.stdout.write(f"recall at 10: {alone(recall, root / 'store')[0]:.3f}\n")
        finally:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
