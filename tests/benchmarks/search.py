"""What look-up costs beside raw FAISS with the same index, and what an index costs.

    python -m tests.benchmarks.search [--rows N] [--kinds KIND ...] [--folder DIR]

Makes a store of N unit vectors of 512 float16 in crowds (bench_refine.py), and removes it. Each
kind of index is built and asked in a process of its own. Asked is for the 10 nearest of vectors
near stored ones. "raw" calls FAISS with the very index and the same effort, all of it in memory;
"ours" is `SearchIndex.search`, which compares the candidates once more exactly; "query" is
`Searcher.find`, down to the table of paths and labels. The three take turns query by query, and in
batches of 1,000. Recall is told against exact search. How the service does under load is in
search_api.py, near-duplicates in bench_duplicates.py.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, get_args

import faiss
import numpy as np
import pyarrow as pa

from pipeline.arrays import Floats, Ints, unit_rows
from pipeline.opening import open_store
from pipeline.search.choosing import IndexSettings, Kind
from pipeline.search.exact import ExactRows
from pipeline.search.index import index_files, load_index, update_index
from pipeline.search.known import know, state_of
from pipeline.search.queries import Term
from pipeline.search.search_index import SearchIndex
from pipeline.search.searcher import Searcher
from pipeline.store import Store
from pipeline.tables import FILES
from tests.benchmarks.bench_refine import make_store

K, SINGLE, BATCH, ROUNDS = 10, 300, 1000, 5
Search = Callable[[Floats], Ints | None]


@dataclass(frozen=True)
class Cost:
    """What an index of one kind costs."""

    build: float  # seconds
    peak: float  # MB, while it was built and held
    bytes: float  # of its files, per vector
    recall: dict[str, float]  # by who was asked
    p50: dict[str, float]  # ms of a single query
    p99: dict[str, float]
    batch: dict[str, float]  # queries a second
    ratio: float  # ours to raw, median of rounds


def add_files(store: Store) -> None:
    """Record a file for each image, so that it is there."""
    now = datetime.now(UTC)
    for part in store.parts("embeddings"):
        ids = store.read_part("embeddings", part, ["image_id"])["image_id"].to_pylist()
        about: dict[str, object] = {
            "source": "/photos",
            "bytes": 1,
            "mtime": now,
            "status": "ok",
            "reason": None,
        }
        about |= {"run_id": part, "seen_at": now}
        columns: dict[str, Any] = {name: [value] * len(ids) for name, value in about.items()}
        paths = [f"/photos/{image_id[:2]}/{image_id}.jpg" for image_id in ids]
        columns |= {"path": paths, "image_id": ids}
        store.write_part("files", part, pa.table(columns, schema=FILES))


def measure(location: Path, kind: Kind) -> Cost:
    """Build an index of this kind, and ask it."""
    store = open_store(str(location))
    shutil.rmtree(location / "index", ignore_errors=True)
    started = time.perf_counter()
    update_index(store, IndexSettings(kind=kind))
    build = time.perf_counter() - started
    held = sum((location / name).stat().st_size for name in index_files(store))
    index = load_index(store)
    searcher = Searcher(store, index, know(store, index.ids), state_of(store))
    parties: dict[str, Search] = {
        "raw": raw(index),
        "ours": lambda queries: index.search(queries, K).rows,
        "query": lambda queries: ask(searcher, queries),
    }
    chance = np.random.default_rng(7)
    near = index.vectors(np.sort(chance.choice(len(index), BATCH, replace=False)))
    noise = unit_rows(chance.standard_normal(near.shape, dtype=np.float32))
    queries = unit_rows(near + 0.3 * noise)
    true = index.search(queries, K, exact=True).rows
    recall = {name: overlap(parties[name](queries), true) for name in ("raw", "ours")}
    singles = one_by_one(parties, queries[:SINGLE])
    batches: dict[str, list[float]] = {name: [] for name in parties}
    for _ in range(ROUNDS):
        for name, search in parties.items():
            batches[name].append(BATCH / seconds(search, queries))
    return Cost(
        build,
        peak(),
        held / len(index),
        recall,
        {name: float(np.percentile(times, 50)) for name, times in singles.items()},
        {name: float(np.percentile(times, 99)) for name, times in singles.items()},
        {name: median(rates) for name, rates in batches.items()},
        median(o / r for o, r in zip(batches["ours"], batches["raw"], strict=True)),
    )


def raw(index: SearchIndex) -> Search:
    """Return the FAISS index itself, in memory, asked with the effort that it was tuned to."""
    if index.layer is None:
        flat = flat_of(index.exact)
        return lambda queries: flat.search(queries, K)[1]
    made, level = index.layer.approximate, index.layer.tuning.near[0]
    inside: Any = faiss
    if made.kind == "hnsw":
        parameters = inside.SearchParametersHNSW(efSearch=level.effort)
    else:
        parameters = inside.SearchParametersIVF(nprobe=level.effort)
    return lambda queries: made.index.search(queries, K, params=parameters)[1]


def flat_of(exact: ExactRows) -> faiss.IndexScalarQuantizer:
    """Return all rows in one FAISS index."""
    kind, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    flat = faiss.IndexScalarQuantizer(exact.dimension, kind, metric)
    for segment in exact.segments:
        flat.add_sa_codes(segment.codes)
    return flat


def ask(searcher: Searcher, queries: Floats) -> None:
    """Ask for images with all that is known of them."""
    searcher.find_many([[Term(query, "image")] for query in queries], K)


def one_by_one(parties: dict[str, Search], queries: Floats) -> dict[str, list[float]]:
    """Return the milliseconds of each query, the parties taking turns."""
    times: dict[str, list[float]] = {name: [] for name in parties}
    for search in parties.values():
        search(queries[:1])
    for at in range(len(queries)):
        names = list(parties)  # whoever comes first finds what is near the query not in any cache
        for name in names[at % len(names) :] + names[: at % len(names)]:
            times[name].append(1000 * seconds(parties[name], queries[at : at + 1]))
    return times


def seconds(search: Search, queries: Floats) -> float:
    """Return how long a search takes."""
    started = time.perf_counter()
    search(queries)
    return time.perf_counter() - started


def overlap(found: Ints | None, true: Ints) -> float:
    """Return the share of the true neighbours that were found."""
    assert found is not None
    pairs = zip(found.tolist(), true.tolist(), strict=True)
    return sum(len(set(f) & set(t)) for f, t in pairs) / true.size


def peak() -> float:
    """Return the most memory that this process ever held, in MB."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def show(kind: str, cost: Cost) -> None:
    """Print what was measured."""
    write = sys.stdout.write
    write(
        f"{kind}: built in {cost.build:.1f} s, {cost.bytes:,.0f} bytes per vector on disk, "
        f"peak {cost.peak:,.0f} MB; batches: ours {cost.ratio:.2f} of raw\n"
    )
    for name in cost.p50:
        recall = f"recall {cost.recall[name]:.3f}" if name in cost.recall else ""
        write(
            f"  {name:<6} p50 {cost.p50[name]:8.2f} ms  p99 {cost.p99[name]:8.2f} ms  "
            f"batch {cost.batch[name]:9,.0f}/s  {recall}\n"
        )
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kinds", nargs="+", default=get_args(Kind), choices=get_args(Kind))
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: /tmp")
    asked = parser.parse_args()
    root = Path(tempfile.mkdtemp(dir=asked.folder))
    try:
        make_store(root / "store", asked.rows)
        add_files(open_store(str(root / "store")))
        for kind in asked.kinds:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                show(kind, process.submit(measure, root / "store", kind).result())
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
