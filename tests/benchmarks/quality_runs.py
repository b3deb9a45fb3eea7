"""Run the tasks: every method on every draw, as rows of numbers."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.arrays import Bools, Floats, Ints
from tests.benchmarks.quality_methods import labelled, nearest_of
from tests.benchmarks.quality_sets import Embedded, openai
from tests.benchmarks.quality_statistics import (
    Change,
    Paired,
    calibration_error,
    macro_recall,
)
from tests.benchmarks.quality_tasks import STRANGER, Plan, make_task
from tests.benchmarks.quality_tiny import prompt_styles, tiny

OPENAI, TINY = "ViT-B/32", "tiny CLIP"


@dataclass(frozen=True)
class Row:
    """How one method did on one task, over all seeds; shares from 0 to 1, changes in points."""

    model: str
    prompts: str
    plan: Plan
    method: str
    images: int  # of the smallest draw, strangers included
    accuracy: float  # of images that have a class
    kin_accuracy: float  # with kin counted as right
    recall: float  # mean over the classes that are there
    ece: float
    change: Change  # of the accuracy, against naive with the same prompts
    prompt_change: Change  # of the accuracy, against naive with the first style of prompts


@dataclass
class _Answers:
    """What a method said, seed by seed."""

    right: list[Bools] = field(default_factory=list)
    kin: list[Bools] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)
    ece: list[float] = field(default_factory=list)

    def add(self, table: Floats, true: Ints, names_right: Bools) -> None:
        """Take the probabilities (n, W) of images that have a class."""
        said = table.argmax(axis=1)
        right = said == true
        self.right.append(right)
        self.kin.append(names_right[true, said])
        self.recall.append(macro_recall(true, right))
        self.ece.append(calibration_error(table.max(axis=1), right))


Sources = dict[str, dict[str, Embedded]]  # model -> style of prompts -> vectors


def sources(embeddings: Path | None, kept: Path | None) -> Sources:
    """Return the vectors at hand."""
    found: Sources = {}
    if embeddings is not None:
        found[OPENAI] = {"1 prompt": openai(embeddings)}
    if kept is not None:
        found[TINY] = {style: tiny(kept, style) for style in prompt_styles()}
    return found


def run_plan(model: str, styles: dict[str, Embedded], plan: Plan, seeds: int) -> list[Row]:
    """Draw a task as often as there are seeds, and ask every method; [] where there is none.

    Every style of prompts and every method sees the same draws.
    """
    answers: dict[tuple[str, str], _Answers] = {}
    ids, sizes = [], []
    for seed in range(seeds if plan.by_chance else 1):
        tasks = {style: make_task(plan, embedded, seed) for style, embedded in styles.items()}
        nearest = None  # the images of a draw are the same in every style of prompts
        for style, task in tasks.items():
            if task is None:
                return []
            known = task.true != STRANGER
            if nearest is None:
                nearest = nearest_of(task.images)
                ids.append(task.ids[known])
                sizes.append(len(task.images))
            for method, table in labelled(task, nearest):
                answer = answers.setdefault((style, method), _Answers())
                answer.add(table[known], task.true[known], task.right)
    bootstrap = Paired(ids)
    first = answers[next(iter(styles)), "naive"].right
    return [
        Row(
            model=model,
            prompts=style,
            plan=plan,
            method=method,
            images=min(sizes),
            accuracy=float(np.concatenate(got.right).mean()),
            kin_accuracy=float(np.concatenate(got.kin).mean()),
            recall=float(np.mean(got.recall)),
            ece=float(np.mean(got.ece)),
            change=_change(bootstrap, got.right, answers[style, "naive"].right),
            prompt_change=_change(bootstrap, got.right, first),
        )
        for (style, method), got in answers.items()
    ]


def _change(bootstrap: Paired, ours: Sequence[Bools], theirs: Sequence[Bools]) -> Change:
    pairs = zip(ours, theirs, strict=True)
    return bootstrap.change([a.astype(np.float32) - b.astype(np.float32) for a, b in pairs])


def run_all(
    jobs: Sequence[tuple[str, Plan]],
    embeddings: Path | None,
    kept: Path | None,
    seeds: int,
    processes: int,
) -> Iterator[list[Row]]:
    """Run (model, plan) pairs side by side; yields in their order."""
    with ProcessPoolExecutor(
        processes,
        mp_context=get_context("spawn"),
        initializer=_start,
        initargs=(embeddings, kept, seeds),
    ) as pool:
        yield from pool.map(_run, jobs)


_HELD: tuple[Sources, int]  # of a process


def _start(embeddings: Path | None, kept: Path | None, seeds: int) -> None:
    global _HELD
    threadpool_limits(1)
    _HELD = sources(embeddings, kept), seeds


def _run(job: tuple[str, Plan]) -> list[Row]:
    (model, plan), (found, seeds) = job, _HELD
    return run_plan(model, found[model], plan, seeds)
