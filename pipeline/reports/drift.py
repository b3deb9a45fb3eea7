"""Drift: the images of a drop and those before it in, a plain verdict out.

Whether something changed is told by permutation tests, whose chance of a false alarm is the same
for a drop of ten images and of a million (`permutations`). With many images the smallest change is
certain, so it must also be large enough to matter. Images of one drop often belong together, as the
frames of a film do: that is a difference like any other, and the second bar is for that, too.

Shapes: n images, m of them with vectors, C classes, D embedding dimensions.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.arrays import Floats, Ints
from pipeline.reports.permutations import compare_means, compare_mixes, compare_vectors

Level = Literal["none", "some", "strong", "not known"]
LEVELS: tuple[Level, ...] = ("none", "some", "strong")

DRAWS = 1999
FALSE_ALARMS = 0.01  # of all signs together
FEWEST = 10  # images on either side; of fewer nothing is said
TAIL = 0.95  # an image that fits the classes less than this share of those before is strange
# What matters, by sign: some from the first on, strong from the second.
BARS = {
    "labels": (0.02, 0.1),  # bits
    "content": (0.25, 0.5),  # spreads
    "spread": (0.15, 0.4),  # of the spread before
    "strange": (0.05, 0.2),  # of the images
    "confidence": (0.05, 0.15),
}
_ADVICE = {  # what tells most of what to do comes first
    "strange": "Look at the strangest images: add classes or reject prompts, or set "
    "labels.unknown_above, and relabel.",
    "content": "Look at the examples: other subjects, another camera or another cut? If the label "
    "set has no class for them, add one and relabel.",
    "confidence": "Audit a sample of this drop before you trust its labels: a calibration of "
    "before may not hold for it.",
    "labels": "Look at the classes that grew. If the world changed, go on; if not, look at what "
    "the source sends.",
    "spread": "Look for a stuck camera or near-duplicates where images became more alike, for a "
    "mixed-in source where they became less so.",
}


@dataclass(frozen=True)
class Sample:
    """What is looked at of a set of images."""

    labels: Ints  # (C + 1,) images of each class; without a label: last
    confidence: Floats  # (n,) 0 to 1
    unknown: Floats  # (n,) the higher, the less any class fits
    vectors: Floats  # (m, D) of unit length; of images drawn by their ids where there are many

    @property
    def images(self) -> int:
        """Return n."""
        return len(self.confidence)


@dataclass(frozen=True)
class Sign:
    """One thing that may have changed."""

    name: str  # a key of BARS
    before: float | None
    now: float | None
    change: float  # in the unit of BARS; what chance makes of few images is taken off
    p: float  # chance of so large a difference, or a larger one, without drift
    level: Level
    words: str


@dataclass(frozen=True)
class Drift:
    """How a drop differs from the images before it."""

    verdict: Level
    reason: str
    advice: str
    images: int
    images_before: int
    signs: list[Sign]
    divergence: float | None = None  # of the label mixes, Jensen-Shannon, bits
    expected_divergence: float | None = None  # of mixes of so few images without drift
    cosine: float | None = None  # between the mean vectors


def compare(drop: Sample, before: Sample, *, draws: int = DRAWS, seed: int = 0) -> Drift:
    """Compare a drop with the images before it.

    Args:
        drop: the new images.
        before: the others; of the same classes and dimension.
        draws: of each permutation test; with fewer than 999 no sign can be sure enough.
        seed: of the draws.
    """
    few = _too_few(drop.images, before.images)
    if few:
        return Drift("not known", few, "", drop.images, before.images, [])
    rng = np.random.default_rng(seed)
    mix = compare_mixes(drop.labels, before.labels, draws, rng)
    change = max(0.0, mix.found - mix.expected)
    signs = [
        _sign("labels", mix.expected, mix.found, change, mix.p),
        _strange(drop, before, draws, rng),
        _confidence(drop, before, draws, rng),
    ]
    cosine = None
    if min(len(drop.vectors), len(before.vectors)) >= FEWEST:
        lie = compare_vectors(drop.vectors, before.vectors, draws, rng)
        wider = abs(lie.ours - lie.theirs) / lie.theirs if lie.theirs > 0 else float(lie.ours > 0)
        signs += [
            _sign("content", 0.0, lie.shift, lie.shift, lie.distance.p),
            _sign("spread", lie.theirs, lie.ours, wider, lie.variance.p),
        ]
        cosine = _cosine(drop.vectors.mean(axis=0), before.vectors.mean(axis=0))
    told = [sign for sign in signs if sign.level != "none"]
    telling = list(_ADVICE)
    told.sort(key=lambda sign: (-LEVELS.index(sign.level), telling.index(sign.name)))
    return Drift(
        verdict=told[0].level if told else "none",
        reason="; ".join(sign.words for sign in told) or "the new images are like those before",
        advice=_ADVICE[told[0].name] if told else "",
        images=drop.images,
        images_before=before.images,
        signs=signs,
        divergence=mix.found,
        expected_divergence=mix.expected,
        cosine=cosine,
    )


def _too_few(images: int, before: int) -> str | None:
    if not images:
        return "no image of this run is new"
    if not before:
        return "nothing came before: these are the first images"
    if min(images, before) < FEWEST:
        return f"{images} new images beside {before} before are too few to tell"
    return None


def _confidence(drop: Sample, before: Sample, draws: int, rng: np.random.Generator) -> Sign:
    tested = compare_means(drop.confidence, before.confidence, draws, rng)
    higher = tested.found >= 0
    # Both directions count: the p of the larger side, twice.
    chance = tested.chance if higher else -tested.chance
    p = min(1.0, 2 * type(tested)(abs(tested.found), chance).p)
    now, then = (float(each.confidence.mean()) for each in (drop, before))
    return _sign("confidence", then, now, abs(now - then), p)


def _strange(drop: Sample, before: Sample, draws: int, rng: np.random.Generator) -> Sign:
    """Compare how unlike any class images are: tested by the mean, judged by the tail.

    The tail's bar is drawn from the images before, so that a test of the shares would not be exact.
    """
    tested = compare_means(drop.unknown, before.unknown, draws, rng)
    bar = np.quantile(before.unknown, TAIL)
    now, then = (float((each.unknown > bar).mean()) for each in (drop, before))
    return _sign("strange", then, now, max(0.0, now - then), tested.p)


def _cosine(ours: Floats, theirs: Floats) -> float | None:
    lengths = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    return float(ours @ theirs) / lengths if lengths > 0 else None


def _sign(name: str, before: float | None, now: float, change: float, p: float) -> Sign:
    some, strong = BARS[name]
    level: Level = "none"
    if p <= FALSE_ALARMS / len(BARS) and change >= some:
        level = "strong" if change >= strong else "some"
    return Sign(name, before, now, change, p, level, _words(name, before or 0.0, now))


def _words(name: str, before: float, now: float) -> str:
    if name == "labels":
        return f"the mix of labels differs by {now:.2f} bits, where chance makes {before:.2f}"
    if name == "content":
        return f"the centre of the new images lies {now:.2f} spreads away"
    if name == "spread":
        how = "less" if now > before else "more"
        return f"images are {how} alike: spread {now:.2f} instead of {before:.2f}"
    if name == "strange":
        return f"{100 * now:.0f} % of the images fit no class well, instead of {100 * before:.0f} %"
    return f"the mean confidence is {now:.2f} instead of {before:.2f}"
