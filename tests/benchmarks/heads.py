"""How much better than its pseudo-labels is a head that learns from them?

    python -m tests.benchmarks.heads [--embeddings DIR] [--images DIR] [--markdown FILE]

--embeddings holds vectors of OpenAI's CLIP ViT-B/32, --images folders of images that the tiny CLIP
embeds once (--cache), as in `label_quality`. Half of a set's images teach by their pseudo-labels,
refined as `run` refines them; the truth of the others is asked for. Each task is drawn by 3 seeds.

Beside each head stand the zero-shot labels (the text classifier, on the same images) and the
ceiling: the best, by these very test images, of a linear head and three logistic regressions that
were fitted to the true labels of the images that teach. "Closed" is the share of the gap between
them, where that exceeds 3 points. In "half of the classes" and "open vocabulary" most names fit no
image, which the ceiling knows.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from tests.benchmarks.heads_tables import summary_table, task_table
from tests.benchmarks.heads_tasks import REGIMES, Task, make_task
from tests.benchmarks.quality_sets import Embedded, openai
from tests.benchmarks.quality_tiny import embed_once, tiny

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared/data"
MODEL = f"local-dir:{ROOT / 'data/models/tiny-clip'}"
OPENAI, TINY = "ViT-B/32", "tiny CLIP"
ANSWERS = 200  # of an audit


@dataclass(frozen=True)
class Row:
    """What one way of learning came to in one task."""

    model: str
    source: str
    regime: str
    seed: int
    method: str
    images: int  # that teach
    accuracy: float  # on the test images, 0 to 1
    seconds: float


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--embeddings", type=Path, default=DATA / "clip-embeddings")
    parser.add_argument("--images", type=Path, help="folder of the image sets")
    parser.add_argument("--cache", type=Path, default=Path("label-quality-cache"))
    parser.add_argument("--model", default=MODEL, help="that embeds --images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--heads", default="linear,logistic,mlp", help="pairwise is slow")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--markdown", type=Path, help="where to write the tables too")
    parser.add_argument("--json", type=Path, help="where to write every number")
    asked = parser.parse_args()
    if asked.images is not None:
        embed_once(asked.images, asked.cache, asked.model)
    homes = {OPENAI: asked.embeddings} if asked.embeddings.is_dir() else {}
    homes |= {TINY: asked.cache} if asked.images is not None else {}
    jobs = [
        (model, home, name, regime, seed, tuple(asked.heads.split(",")))
        for seed in range(asked.seeds)
        for model, home in homes.items()
        for name in _embedded(model, home).sets
        for regime in REGIMES
    ]
    if not jobs:
        raise SystemExit("nothing to measure: give --embeddings or --images")
    rows: list[Row] = []
    with ProcessPoolExecutor(asked.processes, mp_context=get_context("spawn")) as pool:
        for number, found in enumerate(pool.map(_measure, jobs), 1):
            rows += found
            sys.stderr.write(f"{number} of {len(jobs)} tasks\n")
            if asked.json:
                asked.json.write_text(json.dumps([asdict(row) for row in rows]))
    text = f"{summary_table(rows)}\n{task_table(rows)}"
    sys.stdout.write(text)
    if asked.markdown:
        asked.markdown.write_text(text)


def _embedded(model: str, home: Path) -> Embedded:
    return openai(home) if model == OPENAI else tiny(home, "1 prompt")


def _measure(job: tuple[str, Path, str, str, int, tuple[str, ...]]) -> list[Row]:
    import torch

    torch.set_num_threads(1)  # a task each
    model, home, name, regime, seed, heads = job
    task = make_task(name, regime, _embedded(model, home), seed)
    return [
        Row(model, name, regime, seed, method, len(task.train), accuracy, seconds)
        for method, accuracy, seconds in _methods(task, seed, heads)
    ]


def _methods(task: Task, seed: int, heads: tuple[str, ...]) -> Sequence[tuple[str, float, float]]:
    from tests.benchmarks.heads_ways import POLICIES, Teacher, ceiling, head_of, zero_shot

    found = [("zero-shot", zero_shot(task), 0.0), ("ceiling", ceiling(task), 0.0)]
    teacher = Teacher(task)

    def add(method: str, kind: str, policy: str, answers: int = 0) -> None:
        started = time.monotonic()
        accuracy = head_of(kind, task, teacher.samples(POLICIES[policy], answers, seed), seed)
        found.append((method, accuracy, time.monotonic() - started))

    for kind in heads:
        add(kind, kind, "threshold 0.5")
    for policy in POLICIES:
        if policy != "threshold 0.5":
            add(f"linear, {policy}", "linear", policy)
    add("logistic, threshold 0.9", "logistic", "threshold 0.9")
    add(f"linear, {ANSWERS} answers", "linear", "threshold 0.5", ANSWERS)
    return found


if __name__ == "__main__":
    main()
