"""What is known beside the pixels: where it helps a head, and where it gives the labels away.

    python -m tests.benchmarks.heads_side [--seeds N]

Two of six classes look alike: an image tells them apart in three of four cases, and so do its
pseudo-labels. Where and when it was taken tells them apart. What is learnt from is 2,000
pseudo-labels, and then the same with 200 answers of an audit in their place. In the second case
nothing looks alike, and a column holds the number of the class, or a word for it. All is drawn.
"""

import argparse
import sys
from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl

from flows.stale import recipe
from pipeline.arrays import Floats, Ints, unit_rows
from pipeline.config import Config
from pipeline.training.heads.base import Epoch, TextClassifier
from pipeline.training.heads.registry import make_head
from pipeline.training.leakage import Drawn, find_leakage
from pipeline.training.samples import Samples
from pipeline.training.selection import ANSWER_WEIGHT
from pipeline.training.side.columns import Column
from pipeline.training.side.encoding import SideEncoding, encode_column, fit_column
from pipeline.training.side.settings import SideSettings
from tests.benchmarks.quality_table import markdown

CLASSES = ("arctic fox", "fennec fox", "car", "ship", "tree", "bird")
WIDTH, TRAIN, TEST, ANSWERS = 64, 2000, 2000, 200
_NOISE = 0.09  # of each component, beside centres of unit length
_APART = 0.12  # between the two that look alike


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    columns, table = ["head"], dict[str, list[str]]()
    for answers in (0, ANSWERS):
        runs = [_accuracies(seed, answers) for seed in seeds]
        said = f"{answers} answers of an audit" if answers else "pseudo-labels"
        columns += [f"{said}: accuracy", "of the two that look alike"]
        for name in runs[0]:
            means = [f"{100 * np.mean([run[name][part] for run in runs]):.1f}" for part in (0, 1)]
            table.setdefault(name, [name]).extend(means)
    sys.stdout.write(markdown(columns, list(table.values())))
    found = [_names(seed) for seed in seeds]
    lines = []
    for case in found[0]:
        shares = [f"{np.mean([each[case][at] for each in found]):.2f}" for at in range(3)]
        lines.append([case, *shares, ", ".join(sorted({each[case][3] for each in found}))])
    sys.stdout.write("\n")
    sys.stdout.write(
        markdown(["beside the image", "it alone", "chance", "image", "verdict"], lines)
    )


def _accuracies(seed: int, answers: int) -> dict[str, tuple[float, float]]:
    """Return the accuracy of each head, and that on the two classes that look alike."""
    rng = np.random.default_rng(seed)
    images, true, places = _drawn(rng, TRAIN + TEST, apart=_APART)
    codes = [
        fit_column(column, places[:TRAIN].select(column.names))
        for column in (Column("place", ("lat", "lon")), Column("time", ("taken",)))
    ]
    side = np.concatenate(
        [encode_column(code, places.select(code.names)) for code in codes], axis=1
    )
    text = _texts()
    labels = (images[:TRAIN] @ text.vectors.T).argmax(axis=1)
    told = rng.permutation(TRAIN)[:answers]
    labels[told] = true[told]
    weights = np.ones(TRAIN, np.float32)
    weights[told] = ANSWER_WEIGHT
    nothing = np.empty((TRAIN + TEST, 0), np.float32)
    settings = replace(recipe(Config()).settings, seed=seed)
    fused = {
        f"multimodal, {fusion}": ("multimodal", images, side, replace(settings, fusion=fusion))
        for fusion in ("concat", "gated", "dynamic")
    }
    ways = {
        "image-only (mlp)": ("mlp", images, nothing, settings),
        "image-only (linear)": ("linear", images, nothing, settings),
        "side-only (mlp)": ("mlp", side, nothing, settings),
        **fused,
    }
    alike = true[TRAIN:] < 2
    found = {"zero-shot": (images[TRAIN:] @ text.vectors.T).argmax(axis=1) == true[TRAIN:]}
    for name, (kind, seen, beside, knobs) in ways.items():
        samples = Samples(seen[:TRAIN], beside[:TRAIN], labels, weights)
        cut = TRAIN // 5
        head = make_head(kind, text, samples.sizes, knobs)
        head.fit(samples.take(np.arange(cut, TRAIN)), samples.take(np.arange(cut)), _unheard)
        said = head.predict_proba(seen[TRAIN:], beside[TRAIN:]).argmax(axis=1)
        found[name] = said == true[TRAIN:]
    return {
        name: (float(right.mean()), float(right[alike].mean())) for name, right in found.items()
    }


def _names(seed: int) -> dict[str, tuple[float, float, float, str]]:
    """Return side, chance, image and the guard's verdict for columns that inform or tell."""
    rng = np.random.default_rng(seed)
    images, true, places = _drawn(rng, TRAIN, apart=_APART)
    wide, plain, _ = _drawn(rng, TRAIN, apart=1.0)
    number = pl.DataFrame({"number": plain.astype(np.float64)})
    words = np.array(["tundra", "sahara", "sedan", "frigate", "oak", "robin"])[plain]
    cases = {
        "place": (images, true, Column("place", ("lat", "lon")), places.select("lat", "lon")),
        "class number": (wide, plain, Column("numeric", ("number",)), number),
        "word": (wide, plain, Column("categorical", ("word",)), pl.DataFrame({"word": words})),
    }
    found: dict[str, tuple[float, float, float, str]] = {}
    for case, (seen, labels, column, rows) in cases.items():
        code = fit_column(column, rows)
        encoding = SideEncoding(SideSettings(), 0, (code,))
        drawn = Drawn(labels, np.arange(TRAIN), seen, encode_column(code, rows), None)
        told = find_leakage(drawn, CLASSES, encoding)
        found[case] = (told.side or 0.0, told.chance or 0.0, told.image or 0.0, told.verdict)
    return found


def _drawn(
    rng: np.random.Generator, size: int, *, apart: float
) -> tuple[Floats, Ints, pl.DataFrame]:
    """Return images (size, WIDTH), their classes, and where and when they were taken."""
    true = rng.integers(0, len(CLASSES), size)
    centres = _centres(apart)
    images = unit_rows(centres[true] + _NOISE * rng.normal(size=(size, WIDTH)))
    north = np.where(true == 0, 75.0, np.where(true == 1, 25.0, rng.uniform(-60, 75, size)))
    east = np.where(true == 0, -40.0, np.where(true == 1, 5.0, rng.uniform(-180, 180, size)))
    month = np.where(true == 0, 1, np.where(true == 1, 7, rng.integers(1, 13, size)))
    days = zip(month, rng.integers(1, 29, size), strict=True)
    places = pl.DataFrame(
        {
            "lat": np.clip(north + rng.normal(0, 8, size), -90, 90),
            "lon": np.clip(east + rng.normal(0, 15, size), -180, 180),
            "taken": [datetime(2024, int(of), int(day), 12) for of, day in days],
        }
    )
    return images, true, places


def _centres(apart: float) -> Floats:
    chance = np.random.default_rng(7)
    centres = unit_rows(chance.normal(size=(len(CLASSES), WIDTH)))
    centres[1] = unit_rows(centres[:1] + apart * centres[1:2])[0]
    return centres


def _texts() -> TextClassifier:
    return TextClassifier(CLASSES, _centres(_APART), 100.0)


def _unheard(epoch: Epoch) -> None:
    """Tell nobody."""


if __name__ == "__main__":
    main()
