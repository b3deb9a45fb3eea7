"""What neighbours and near-duplicates cost: seconds and peak memory, for a whole store and a drop.

    python -m tests.benchmarks.bench_duplicates [--rows N ...] [--folder DIR]

Makes the store of `bench_refine`, in which a hundredth of the images have a twin at a cosine of
some 0.995 among the rest, and removes it. Each step runs in a process of its own. Told are the
share of twins that are grouped, and the recall that the store itself has measured.
"""

import argparse
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.arrays import unit_rows
from pipeline.images.decoding import image_id
from pipeline.opening import open_store
from pipeline.search.duplicates import crowd_plan, near_duplicates, threshold
from pipeline.search.index import load_index, update_index
from pipeline.search.links import read_links
from pipeline.search.neighbours import measured_recall, update_neighbours
from pipeline.tables import embeddings
from pipeline.vectors import read_vectors, to_column
from tests.benchmarks.bench_refine import WIDTH, alone, index, make_store, neighbours, show

COSINE = 0.98
_DROP = 8192


def twin_of(name: str, seed: int) -> str:
    """Return the id of an image's twin."""
    return image_id(f"{name} {seed}".encode())


def add(location: Path, rows: int, seed: int) -> None:
    """Add a part of images that resemble some of the first part: twins."""
    store = open_store(str(location))
    chance = np.random.default_rng(seed)
    ids, vectors = read_vectors(store, store.parts("embeddings")[0])
    rows = min(rows, len(ids))
    some = chance.choice(len(ids), rows, replace=False)
    noise = chance.standard_normal((rows, WIDTH), dtype=np.float32) * (0.1 / WIDTH**0.5)
    near = unit_rows(vectors[some].astype(np.float32) + noise).astype(np.float16)
    side = pa.array(np.full(rows, 224, np.int32))
    names = pa.array([twin_of(ids[row], seed) for row in some])
    columns = [names, side, side, pa.array(["JPEG"] * rows), to_column(near)]
    table = pa.table(columns, schema=embeddings(WIDTH))
    store.write_part("embeddings", f"202406{seed + 1:02}T120000000000-00000", table)


def grouped(location: Path, _: int) -> int:
    """Find leaders and crowds, out of the table of neighbours; return how many images follow."""
    store = open_store(str(location))
    held = load_index(store)
    links = read_links(store, held, threshold(COSINE))
    plan = crowd_plan(store, held, links)
    rank = np.arange(len(held))
    found = near_duplicates(held, rank, cosine=COSINE, links=links, plan=plan)
    return int((found.leaders != rank).sum())


def planted(location: Path, _: int) -> float:
    """Return the share of planted twins that are in the crowd of their image."""
    store = open_store(str(location))
    held = load_index(store)
    links = read_links(store, held, threshold(COSINE))
    plan = crowd_plan(store, held, links)
    crowds = near_duplicates(
        held, np.arange(len(held)), cosine=COSINE, links=links, plan=plan
    ).crowds
    row_of = {name: row for row, name in enumerate(held.ids)}
    every = [(row, twin_of(name, seed)) for name, row in row_of.items() for seed in (0, 1)]
    twins = [(row, row_of[twin]) for row, twin in every if twin in row_of]
    return float(np.mean([crowds[twin] == crowds[row] for twin, row in twins]))


def told_recall(location: Path, _: int) -> float:
    """Return the recall of neighbours that the store has kept."""
    store = open_store(str(location))
    return measured_recall(store, len(load_index(store))) or 0.0


def drop(location: Path, _: int) -> int:
    """Take a drop of images into the index and the table of neighbours."""
    store = open_store(str(location))
    update_index(store)
    return update_neighbours(store, load_index(store))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 1_000_000])
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: /tmp")
    asked = parser.parse_args()
    sys.stdout.write(f"{'step':<28}{'rows':>11}{'s':>9}{'rows/s':>11}{'peak MB':>9}{'own MB':>9}\n")
    for rows in asked.rows:
        root = Path(tempfile.mkdtemp(dir=asked.folder))
        measured = partial(alone, location=root / "store")
        try:
            make_store(root / "store", rows - rows // 100)
            add(root / "store", rows // 100, 0)
            show("index", *measured(index))
            show("neighbours", *measured(neighbours))
            followers, *cost = measured(grouped)
            show("near-duplicates", rows, *cost)
            sys.stdout.write(f"{followers:.0f} images follow another one\n")
            add(root / "store", _DROP, 1)
            show("a drop: index, neighbours", *measured(drop))
            _, *cost = measured(grouped)
            show("near-duplicates after it", rows + _DROP, *cost)
            told, found = measured(told_recall)[0], measured(planted)[0]
            sys.stdout.write(f"recall of neighbours {told:.3f}, of planted twins {found:.4f}\n")
        finally:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
