"""What is an audit's word worth? Hundreds of audits of images whose truth is known.

    python -m tests.benchmarks.audit_quality [--data DIR] [--answers N] [--draws N] [--json]
        [--store STORE --truth FOLDER]

Each draw is one audit: a stratified sample of --answers images, their true answers, and what comes
of them: the calibration, the accuracy with its interval, the certified regions. What it says is
held against the truth of all images. DIR holds the OpenAI ViT-B/32 embeddings that the README
names; with --store instead, the labels of a store are audited against the truth of its folders.

Frozen on CIFAR-10 alone, before any other task was looked at: that the first region tested can hold
one error (`certify._SPARE`), and 20 thresholds (`certify.STEPS`).
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.arrays import Bools, Floats, Ints, unit_rows
from pipeline.labels.calibration import BINS, calibration_error, fit
from pipeline.labels.certify import accuracy, certify
from pipeline.labels.sampling import draw
from pipeline.labels.scoring import score

DATA = Path(__file__).resolve().parents[3] / "shared/data/clip-embeddings"
TARGETS = (0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Task:
    """Labelled images with their truth."""

    name: str
    scores: Floats  # (N,)
    classes: Ints  # (N,)
    right: Bools  # (N,)


def label(name: str, images: Floats, texts: Floats, truth: Ints, scale: float = 100.0) -> Task:
    """Label images by softmax of scale x cosine."""
    table = score(unit_rows(images), unit_rows(texts), scale=scale).classes
    top = table.argmax(axis=1)
    return Task(name, table.max(axis=1), top.astype(np.int64), top == truth)


def tasks(data: Path) -> Iterator[Task]:
    """Yield the tasks of the stored embeddings."""
    cifar = np.load(data / "cifar10_test500.npz", allow_pickle=False)
    food = np.load(data / "food10.npz", allow_pickle=False)
    names = np.load(data / "detic_text.npz", allow_pickle=False)
    animals, animal_texts = cifar["image_embeddings"], cifar["text_embeddings"]
    yield label("CIFAR-10", animals, animal_texts, cifar["labels"])
    known = np.flatnonzero(~np.isnan(food["text_embeddings"]).any(axis=1))  # paella has no text
    place = np.full(len(food["text_embeddings"]), -1)
    place[known] = np.arange(len(known))
    kept = place[food["labels"]] >= 0
    dishes = food["image_embeddings"][kept].astype(np.float32)
    dish_truth, dish_texts = place[food["labels"]][kept], food["text_embeddings"][known]
    yield label("Food, 9 classes", dishes, dish_texts, dish_truth)
    images = np.concatenate([animals, dishes])
    texts = np.concatenate([animal_texts, dish_texts])
    truth = np.concatenate([cifar["labels"], dish_truth + len(animal_texts)])
    yield label("joint, 19 classes", images, texts, truth)
    ours = {*map(str, cifar["text_names"]), *map(str, food["text_names"][known])}
    others = [i for i, n in enumerate(names["openimages500_names"]) if str(n).lower() not in ours]
    many = names["openimages500_text"][others].astype(np.float32)
    yield label("joint against 500 names", images, np.concatenate([texts, many]), truth)
    strange = np.load(data / "clipis3045.npz", allow_pickle=False)["image_embeddings"][:700]
    mixed = np.concatenate([images, strange.astype(np.float32)])
    nobody = np.full(len(strange), -1)
    yield label("joint, 20 % unknown", mixed, texts, np.concatenate([truth, nobody]))


def stored(location: str, folder: str) -> Task:
    """Return the labels that are in force in a store, with the truth of the folders' names."""
    from pipeline.labels.labelling import current_labels
    from pipeline.labels.truth import read_truth
    from pipeline.opening import open_store

    store = open_store(location)
    run = current_labels(store)
    known = read_truth(store, folder, run.label_set).labels
    rows = (
        store.read(run.table, ["image_id", "score", "topk_labels"])
        .unique("image_id")
        .sort("image_id")
    )
    rows = rows.filter(rows["image_id"].is_in(list(known)))
    top = [labels[0] for labels in rows["topk_labels"]]
    right = [known[i] == label for i, label in zip(rows["image_id"], top, strict=True)]
    index = {name: at for at, name in enumerate(run.label_set.names)}
    classes = np.array([index[name] for name in top], np.int64)
    return Task(Path(location).name, rows["score"].to_numpy(), classes, np.array(right))


def audits(task: Task, answers: int, draws: int) -> dict[str, object]:
    """Audit a task many times; return what is told of it, shares as numbers up to 1."""
    truth = float(task.right.mean())
    even = np.ones(len(task.scores))
    told: dict[str, list[float]] = {
        name: [] for name in ("ece", "off", "covered", "width", "isotonic")
    }
    reached: dict[float, list[float]] = {target: [] for target in TARGETS}
    broken = dict.fromkeys(TARGETS, 0)
    for seed in range(draws):
        drawn = draw(task.scores, task.classes, answers, seed)
        scores, right = task.scores[drawn.rows], task.right[drawn.rows]
        calibration = fit(scores, right, drawn.weight).calibration
        told["ece"].append(calibration_error(calibration(task.scores), task.right, even)[0])
        told["isotonic"].append(calibration.method == "isotonic")
        found = accuracy(right, drawn.weight, len(task.scores))
        told["off"].append(abs(found.value - truth))
        told["covered"].append(found.low <= truth <= found.high)
        told["width"].append(found.high - found.low)
        for target in TARGETS:
            given = certify(scores, right, task.scores, target)
            reached[target].append(given.coverage)
            if given.threshold is not None:
                inside = calibration(task.scores) >= calibration(
                    np.array([given.threshold], np.float32)
                )
                broken[target] += bool(task.right[inside].mean() < target)
    return {
        "task": task.name,
        "images": len(task.scores),
        "accuracy": truth,
        "ece before": calibration_error(task.scores, task.right, even)[0],
        "ece after, median": float(np.median(told["ece"])),
        "ece after, 95 %": float(np.quantile(told["ece"], 0.95)),
        "isotonic chosen": float(np.mean(told["isotonic"])),
        "estimate off, median": float(np.median(told["off"])),
        "estimate off, 95 %": float(np.quantile(told["off"], 0.95)),
        "interval covers": float(np.mean(told["covered"])),
        "interval width": float(np.median(told["width"])),
        "certified": {
            f"{target:.0%}": {
                "violated": broken[target] / draws,
                "coverage, median": float(np.median(reached[target])),
                "nothing": float(np.mean([c == 0 for c in reached[target]])),
            }
            for target in TARGETS
        },
    }


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--only", default="", help="tasks whose name holds this")
    parser.add_argument("--store")
    parser.add_argument("--truth")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    chosen = [stored(asked.store, asked.truth)] if asked.store else tasks(asked.data)
    lines = [audits(t, asked.answers, asked.draws) for t in chosen if asked.only in t.name]
    if asked.json:
        print(json.dumps(lines, indent=2))
        return
    print(f"{BINS} bins of equal mass; {asked.answers} answers, {asked.draws} draws each")
    for line in lines:
        certified = line.pop("certified")
        assert isinstance(certified, dict)
        print(
            ", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{v}" for k, v in line.items())
        )
        for target, numbers in certified.items():
            print(f"    {target}: " + ", ".join(f"{k} {v:.3f}" for k, v in numbers.items()))


if __name__ == "__main__":
    main()
