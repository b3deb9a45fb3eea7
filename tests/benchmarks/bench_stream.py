"""How near does training from Parquet come to training from an array in memory?

    python -m tests.benchmarks.bench_stream [--rows N] [--rounds N] [--folder DIR]

Makes a store of N random unit vectors of 512 float16 with 100 classes; removes it. "ours" is the
head `mlp`, fitted by `fit_network` from `StoredSamples`: checksums, shuffled blocks, every batch
looked at for what is no number. "plain" is a torch loop over a float32 array: the same network,
optimizer, loss and batch size, rows shuffled anew for each epoch. Both go through the rows once to
warm up and then --epochs times; only these are timed. They take turns, each time in a process of
its own, whose peak of memory is told. The ratios are medians of the rounds: of seconds on the wall,
and of seconds of processor time, which others on the machine disturb less.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional

from pipeline.arrays import Ints
from pipeline.opening import open_store
from pipeline.training.heads.base import Epoch, HeadSettings
from pipeline.training.heads.fusion import ConcatFusion, Shape
from pipeline.training.heads.mlp import MlpHead
from pipeline.training.samples import Samples
from pipeline.training.streaming import StoredSamples
from pipeline.vectors import iterate_vectors
from tests.benchmarks.bench_relabel import WIDTH, make_store

Moment = tuple[float, float]  # seconds on the wall, and of processor time
Side = Callable[[Path, HeadSettings], list[Moment]]

CLASSES = 100
SETTINGS = HeadSettings(
    loss="cross-entropy",
    label_smoothing=0.1,
    soft_targets=False,
    mixup=0.0,
    pull=0.0,
    hidden=256,
    dropout=0.3,
    fusion="concat",
    learning_rate=1e-3,
    weight_decay=1e-2,
    batch_size=256,
    max_epochs=3,
    patience=100,
    seed=0,
    device="cpu",
)


def labels_of(rows: int) -> Ints:
    """Return a class for each row."""
    return np.random.default_rng(2).integers(CLASSES, size=rows)


def ours(location: Path, settings: HeadSettings) -> list[Moment]:
    """Fit the head from the store; return when each epoch ended."""
    store = open_store(str(location))
    ids = store.read("embeddings", ["image_id"])["image_id"]
    samples = StoredSamples(store, ids, labels_of(len(ids)), np.ones(len(ids), np.float32))
    ends: list[Moment] = []

    def ended(epoch: Epoch) -> None:
        ends.append((time.perf_counter(), time.process_time()))

    nothing = np.empty((0, 0), np.float32)
    none = Samples(nothing, nothing, np.empty(0, np.int64), np.empty(0, np.float32))
    MlpHead.of(CLASSES, samples.sizes, settings).fit(samples, none, ended)
    return ends


def plain(location: Path, settings: HeadSettings) -> list[Moment]:
    """Fit the same network from an array; return when each epoch ended."""
    store = open_store(str(location))
    rows = store.rows("embeddings", *store.parts("embeddings"))
    array, at = np.empty((rows, WIDTH), np.float32), 0
    for _, ids, vectors in iterate_vectors(store):
        array[at : at + len(ids)] = vectors
        at += len(ids)
    images, labels = torch.from_numpy(array), torch.from_numpy(labels_of(rows))
    torch.manual_seed(settings.seed)
    network = ConcatFusion(Shape(WIDTH, 0, settings.hidden, CLASSES, settings.dropout))
    optimizer = torch.optim.AdamW(
        network.parameters(),
        settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    network.train()
    ends: list[Moment] = []
    for _ in range(settings.max_epochs):
        total = 0.0
        for chosen in torch.split(torch.randperm(rows), settings.batch_size):
            logits = network(images[chosen], torch.empty(len(chosen), 0))
            loss = functional.cross_entropy(
                logits, labels[chosen], label_smoothing=settings.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(chosen)
        ends.append((time.perf_counter(), time.process_time()))
    return ends


def measured(side: Side, location: Path, settings: HeadSettings) -> tuple[float, float, float]:
    """Return seconds an epoch, on the wall and of processors, without the first; MB at the peak."""
    ends = side(location, settings)
    wall, work = ((ends[-1][i] - ends[0][i]) / (len(ends) - 1) for i in (0, 1))
    told = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return wall, work, int(told.split()[0]) / 1024


def compare(location: Path, rows: int, rounds: int, settings: HeadSettings) -> None:
    """Let the two take turns, each in a new process, and print a line for each."""
    ratios = []
    for number in range(rounds):
        took = {}
        for side in (ours, plain) if number % 2 else (plain, ours):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                wall, work, peak = alone.submit(measured, side, location, settings).result()
            took[side] = wall, work
            line = f"{rows:>10,}{side.__name__:>8}{rows / wall:>10,.0f}{rows / work:>15,.0f}"
            sys.stdout.write(f"{line}{peak:>9,.0f}\n")
            sys.stdout.flush()
        ratios.append([took[plain][i] / took[ours][i] for i in (0, 1)])
    wall, work = (median(ratio[i] for ratio in ratios) for i in (0, 1))
    sys.stdout.write(f"{rows:>10,}   ratio{wall:>10.2f}{work:>15.2f}\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--part-rows", type=int, default=65_536)
    parser.add_argument("--batch-size", type=int, default=SETTINGS.batch_size)
    parser.add_argument("--epochs", type=int, default=1, help="timed, after the first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: /tmp")
    asked = parser.parse_args()
    settings = replace(SETTINGS, max_epochs=asked.epochs + 1, batch_size=asked.batch_size)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = (
        f"Python {platform.python_version()}, torch {torch.__version__}, PyArrow {pa.__version__}"
    )
    cores = len(os.sched_getaffinity(0))
    sys.stdout.write(f"vectors of {WIDTH}; {cores} cores, {memory:.0f} GiB, {versions}\n")
    sys.stdout.write(f"{'rows':>10}{'side':>8}{'rows/s':>10}{'a core second':>15}{'peak MB':>9}\n")
    for rows in asked.rows:
        root = Path(tempfile.mkdtemp(prefix="bench-stream-", dir=asked.folder))
        try:
            make_store(root / "store", rows, asked.part_rows)
            compare(root / "store", rows, asked.rounds, settings)
        finally:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
