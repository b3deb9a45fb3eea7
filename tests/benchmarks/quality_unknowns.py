"""How well each unknown score tells images of no class from the others: AUROC in percent."""

from pathlib import Path
from typing import get_args

import numpy as np
from sklearn.metrics import roc_auc_score

from pipeline.arrays import Floats
from pipeline.labels.scoring import Scorer, Unknown
from tests.benchmarks.quality_sets import Embedded, paella

WAYS = ("max softmax", *(way for way in get_args(Unknown) if way != "reject"))


def auroc(known: Floats, strangers: Floats, texts: Floats, scale: float) -> dict[str, float]:
    """Return the AUROC of each way; strangers, (n, D), should score higher."""
    images = np.concatenate([known, strangers])
    strange = np.arange(len(images)) >= len(known)
    found = {}
    for way in WAYS:
        if way == "max softmax":
            level = 1 - Scorer(texts, scale=scale)(images).classes.max(axis=1)
        else:
            level = Scorer(texts, scale=scale, unknown=way)(images).unknown
        found[way] = 100 * float(roc_auc_score(strange, level))
    return found


def openai_cases(folder: Path, embedded: Embedded, seeds: int) -> dict[str, dict[str, float]]:
    """Ask for the classes of a set while images of others are about."""
    sets = embedded.sets
    found = {
        f"{name} against CLIPIS": auroc(
            each.images, embedded.strangers[name], each.texts, each.scale
        )
        for name, each in sets.items()
    }
    cifar, food, joint = (sets[name] for name in ("CIFAR-10", "Food", "joint"))
    found["CIFAR-10 against Food"] = auroc(cifar.images, food.images, cifar.texts, cifar.scale)
    found["Food against paella"] = auroc(food.images, paella(folder), food.texts, food.scale)
    halves = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(joint.classes))
        asked = np.sort(order[: len(order) // 2])
        there = np.isin(joint.true, asked)
        halves.append(
            auroc(joint.images[there], joint.images[~there], joint.texts[asked], joint.scale)
        )
    found["half of the joint classes against the other half"] = {
        way: float(np.mean([half[way] for half in halves])) for way in WAYS
    }
    return found


def tiny_cases(embedded: Embedded) -> dict[str, dict[str, float]]:
    """Ask for the classes of a set while images of other sets are about."""
    return {
        f"{name} against other sets": auroc(
            each.images, embedded.strangers[name], each.texts, each.scale
        )
        for name, each in embedded.sets.items()
    }
