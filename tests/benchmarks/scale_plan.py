"""The plan of a billion images: what is measured in a small store, times as many.

Nothing of this size was ever run. What does not grow in proportion is told in the table's notes.
"""

import tracemalloc
from collections import defaultdict
from dataclasses import dataclass
from math import ceil

import polars as pl

from pipeline.knobs_of_run import RunConfig
from pipeline.opening import open_store
from pipeline.runs import known_runs

PREFECT_BYTES = 30_000  # of Prefect's database, per task run: 98 MB after 3,300 (measured)
PREFECT_TASKS = 9  # of a run: scan, embed, index, neighbours, label, select, train, compact, report
SCAN_BYTES = 820  # of memory per known file: 818 MB for 1,000,000 (README, bench_scan)
GB = 1e9


@dataclass(frozen=True)
class Assumed:
    """What no measurement says."""

    total: int = 1_000_000_000  # images
    days: float = 7.0  # that embedding may take
    worker_hour: float = 0.10  # price of a machine like the one measured, for an hour
    gigabyte_month: float = 0.023  # price of storage
    memory_gb: float = 64.0  # of a machine
    dimension_bytes: int = 1024  # of a vector in the search index: 512 halves


@dataclass(frozen=True)
class Measured:
    """Of a store that a run has left."""

    images: int
    bytes: dict[str, float]  # per image, by table
    known: float  # bytes of memory per image that a worker knows


def measure_store(location: str) -> Measured:
    """Measure what each image takes."""
    store = open_store(location)
    ids = store.read("embeddings", ["image_id"])["image_id"]
    sums: defaultdict[str, int] = defaultdict(int)
    for name, size in store.folder.sizes().items():
        sums[name.partition("/")[0]] += size
    kept = ("files", "embeddings", "labels", "neighbours", "selections", "index")
    assert known_runs(store)  # a run has left it
    return Measured(len(ids), {name: sums[name] / len(ids) for name in kept}, _known_bytes(ids))


def _known_bytes(ids: pl.Series) -> float:
    """Return what an id takes in the set of known ones, as `embed_shards` makes it."""
    some = ids.head(100_000)
    some = pl.concat([some] * ceil(100_000 / len(some))).head(100_000)
    some = some.str.slice(6) + pl.int_range(100_000, eager=True).cast(pl.String).str.zfill(6)
    tracemalloc.start()
    known = set(some)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken / len(known)


def show_plan(measured: Measured, rate: float, assumed: Assumed) -> dict[str, float]:
    """Print the plan; return its numbers.

    Args:
        measured: of a small store.
        rate: images/s of one worker.
        assumed: what else it rests on.
    """
    n, run = assumed.total, RunConfig()
    shards, parts = ceil(n / run.shard_rows), ceil(n / run.part_rows)
    hours = n / rate / 3600
    workers = ceil(hours / 24 / assumed.days)
    whole = sum(measured.bytes.values()) * n
    in_memory = max(measured.known, SCAN_BYTES)
    stores = ceil(n * in_memory / (assumed.memory_gb * GB / 2))  # half is for the model and files
    rows: list[tuple[str, float, str, str]] = [
        ("images", n, "", "assumed"),
        ("images/s of a worker", rate, "", "measured"),
        ("shards", shards, "", f"run.shard_rows = {run.shard_rows}"),
        ("seconds of work in a shard", run.shard_rows / rate, "s", "what a dead worker costs, x 2"),
        ("worker hours", hours, "h", "images / rate"),
        (f"workers, to be done in {assumed.days:g} days", workers, "", "assumed days"),
        ("messages to the driver", shards / hours / 3600 * workers + workers, "/s", "1/s each"),
        *(
            (f"bytes of {name}", each * n / GB, "GB", f"measured: {each:,.0f} an image")
            for name, each in measured.bytes.items()
        ),
        ("bytes of all tables", whole / GB, "GB", "sum"),
        ("parts of embeddings, as written", shards, "", "one a shard"),
        ("parts of embeddings, merged", parts, "", f"run.part_rows = {run.part_rows}"),
        ("Prefect tasks, one per stage", PREFECT_TASKS, "", "as it is built"),
        ("growth of Prefect's database", PREFECT_TASKS * PREFECT_BYTES / 1e6, "MB", "30 KB a task"),
        ("the same, a task per shard", shards * PREFECT_BYTES / GB, "GB", "not as it is built"),
        ("memory of known ids, each worker", measured.known * n / GB, "GB", "measured; see note"),
        ("memory of a scan, driver", SCAN_BYTES * n / GB, "GB", "measured; see note"),
        ("vectors of an exact index", assumed.dimension_bytes * n / GB, "GB", "on the disk"),
        (f"stores, with {assumed.memory_gb:g} GB a machine", stores, "", "see note"),
        ("cost of the workers", hours * assumed.worker_hour, "$", "assumed price of an hour"),
        ("cost of storage", whole / GB * assumed.gigabyte_month, "$/month", "assumed price"),
    ]
    print(f"\na plan, measured on {measured.images} images, of which nothing was run at this size")
    for name, value, unit, source in rows:
        digits = 0 if value >= 100 or value == int(value) else 1
        print(f"{name:<38} {value:>18,.{digits}f} {unit:<8} {source}")
    print(
        "note: a worker holds the ids of all images that the store knows, the driver all its files."
        f"\nNeither fits a machine of {assumed.memory_gb:g} GB at this size: split the sources "
        f"over {stores} stores,\neach with a run of its own. Time for labels, neighbours and "
        "training is not in it: these stay on the driver."
    )
    return {name: value for name, value, _, _ in rows}
