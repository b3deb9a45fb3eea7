"""How good are the labels? Every refinement beside naive labels, on images whose truth is known.

    python -m tests.benchmarks.label_quality [--embeddings DIR] [--images DIR] [--markdown FILE]

--embeddings holds vectors of OpenAI's CLIP ViT-B/32 (`cifar10_test500.npz`, `food10.npz`,
`clipis3045.npz`, `detic_text.npz`). --images holds folders of images, a folder per class, which the
tiny CLIP embeds once (--cache). A task is a draw of images (all; a long tail; some classes only;
strangers among them; 100, 300, 1,000 or all there are) and the names they are asked for: the set's
own, or a large vocabulary in which most names fit no image. It is drawn by 5 seeds. Accuracy is
that of images which have a class; "surely" means that a paired bootstrap over images, of 95 %, does
not reach 0. No method saw a truth, and no constant was chosen here.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.quality_runs import OPENAI, TINY, Row, run_all, sources
from tests.benchmarks.quality_table import (
    change_table,
    prompt_table,
    refinement_table,
    task_table,
    unknown_table,
)
from tests.benchmarks.quality_tasks import plans
from tests.benchmarks.quality_tiny import embed_once
from tests.benchmarks.quality_unknowns import openai_cases, tiny_cases

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared/data"
MODEL = f"local-dir:{ROOT / 'data/models/tiny-clip'}"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--embeddings", type=Path, default=DATA / "clip-embeddings")
    parser.add_argument("--images", type=Path, help="folder of the image sets")
    parser.add_argument("--cache", type=Path, default=Path("label-quality-cache"))
    parser.add_argument("--model", default=MODEL, help="that embeds --images")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--markdown", type=Path, help="where to write the tables too")
    parser.add_argument("--json", type=Path, help="where to write every number")
    asked = parser.parse_args()
    embeddings = asked.embeddings if asked.embeddings.is_dir() else None
    if asked.images is not None:
        embed_once(asked.images, asked.cache, asked.model)
    kept = asked.cache if asked.images is not None else None
    found = sources(embeddings, kept)
    jobs = [
        (model, plan)
        for model, styles in found.items()
        for plan in plans(next(iter(styles.values())))
    ]
    if not jobs:
        sys.exit("nothing to measure: give --embeddings or --images")
    rows: list[Row] = []
    for number, some in enumerate(
        run_all(jobs, embeddings, kept, asked.seeds, asked.processes), start=1
    ):
        rows += some
        sys.stderr.write(f"\r{number} of {len(jobs)} tasks")
    sys.stderr.write("\n")
    cases = {}
    if embeddings is not None:
        cases = openai_cases(embeddings, found[OPENAI]["1 prompt"], asked.seeds)
    if kept is not None:
        cases |= tiny_cases(found[TINY]["1 prompt"])
    text = report(rows, cases)
    sys.stdout.write(text)
    if asked.markdown:
        asked.markdown.write_text(text)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(row) for row in rows]))


def report(rows: list[Row], cases: dict[str, dict[str, float]]) -> str:
    """Return all tables under their headings."""
    blocks = []
    for model in dict.fromkeys(row.model for row in rows):
        mine = [row for row in rows if row.model == model]
        for prompts in dict.fromkeys(row.prompts for row in mine):
            some = [row for row in mine if row.prompts == prompts]
            blocks += [
                f"## {model}, {prompts}: change of accuracy in points, mean (worst task)\n",
                change_table(some),
                f"## {model}, {prompts}: the refinements at 300 images and more\n",
                refinement_table(some),
            ]
        if len({row.prompts for row in mine}) > 1:
            blocks += [f"## {model}: prompts\n", prompt_table(mine)]
    blocks += ["## Telling unknown images, AUROC in percent\n", unknown_table(cases)]
    blocks += ["## Every task\n", task_table(rows)]
    return "\n".join(blocks)


if __name__ == "__main__":
    main()
