"""The leakage guard: does what stands beside an image say its label without looking?

A file's name may hold a synonym of the label, a number of its class or what a scraper asked for. A
head that learns such words agrees with pseudo-labels very well, and knows nothing of images that
come without them. So three things are cross-validated on the same pseudo-labels: a head that sees
the side information alone, the same with its rows permuted (what chance reaches), and a head that
sees the image alone.

No test can tell a fact of the world from a leak where both say everything. What can be told apart:
place, time and captions make some classes likelier, a leak names nearly every image's. The bar lies
between: `NEARLY` of what the image says. A name that holds the true class is right as often as
pseudo-labels are, in at least four of five that are selected here (README: 81 to 92 % at a score of
0.5), while an image head agrees with some 95 % of them: (0.8 - chance) / (0.95 - chance) is more
than 0.75 for up to 5 classes by chance alone, and more the fewer labels are wrong.
Shapes: N images, n of them drawn, D image dimensions, S side dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.arrays import Floats, Ints
from pipeline.errors import LeakageError
from pipeline.training.probes import FOLDS, probes, telling_columns, telling_words
from pipeline.training.side.encoding import SideEncoding

NEARLY = 0.75
_PERMUTATIONS = 10
_DRAWN = 2000  # images at most: a share of 0.5 is then known to within 0.02
_CLASSES = 50  # the largest ones
_SURELY = 4.0  # standard deviations above chance
_ENOUGH = 10  # images of a class, or it is left out

Verdict = Literal["leak", "informative", "nothing", "untested"]
_SAYS: dict[Verdict, str] = {
    "leak": "side information says nearly as much as the image",
    "informative": "side information helps and says much less than the image",
    "nothing": "side information says no more than chance",
}


@dataclass(frozen=True)
class LeakageFinding:
    """What the guard found; shares from 0 to 1, null where nothing could be tested."""

    verdict: Verdict
    words: str  # the verdict for people, with its numbers
    images: int  # that were drawn
    classes: int  # of them
    side: float | None  # mean recall of the classes, cross-validated: side information alone
    chance: float | None  # the same with its rows permuted, mean of several times
    image: float | None  # the image alone
    telling: tuple[str, ...]  # the words and columns that say most

    def require(self, *, allow: bool) -> None:
        """Stop where the side information leaks labels.

        Raises:
            LeakageError: it does, and that is not allowed.
        """
        if self.verdict == "leak" and not allow:
            raise LeakageError(f"{self.words}. {_CURE}")


_CURE = (
    "Take these words or columns out (train.side_text, train.side_use), add synonyms as aliases of "
    "their classes, which are then taken out of texts; or, where they are facts that will be known "
    "of new images just as well, --allow-leakage (train.allow_leakage)"
)


@dataclass(frozen=True)
class Drawn:
    """What the guard looks at, row by row."""

    labels: Ints  # (n,) class indices
    groups: Ints  # (n,) images that must not stand on both sides of a split share a number
    images: Floats  # (n, D)
    side: Floats  # (n, S), as `encoding` gives it
    texts: Sequence[str] | None  # n masked texts


def draw(image_ids: Sequence[str], labels: Sequence[str], groups: Ints | None = None) -> Ints:
    """Choose the images to look at, the same for the same store: about as many of each class.

    Args:
        image_ids: of N pseudo-labelled images; they are hashes, and so as good as a lot.
        labels: of the same.
        groups: (N,) as in `Drawn`: a class of too few to be cross-validated must not keep the
            others from being looked at. None: each image is one of its own.

    Returns:
        (n,) rows, ascending; n is 0 where no two classes have enough images and groups.
    """
    _, index, counts = np.unique(np.array(labels), return_inverse=True, return_counts=True)
    large = [c for c in np.argsort(-counts, kind="stable")[:_CLASSES] if counts[c] >= _ENOUGH]
    if len(large) < 2:
        return np.empty(0, np.int64)
    order = np.argsort(np.array(image_ids), kind="stable")
    share = _DRAWN // len(large)
    rows = [order[index[order] == c][:share] for c in large]
    if groups is not None:
        rows = [some for some in rows if len(np.unique(groups[some])) >= FOLDS]
    return np.sort(np.concatenate(rows)) if len(rows) > 1 else np.empty(0, np.int64)


def find_leakage(drawn: Drawn, names: Sequence[str], encoding: SideEncoding) -> LeakageFinding:
    """Hold side information against the image, each by itself.

    Args:
        drawn: the images of `draw`.
        names: of the classes, by index.
        encoding: which of the side numbers are text, and which belong to which column.
    """
    size = len(drawn.labels)
    groups = [len(np.unique(drawn.groups[drawn.labels == c])) for c in np.unique(drawn.labels)]
    if len(groups) < 2 or min(groups) < FOLDS:
        words = (
            f"side information was not tested for leaks: that takes two classes of {_ENOUGH} "
            f"images in {FOLDS} groups; look at it yourself"
        )
        return LeakageFinding("untested", words, size, len(groups), None, None, None, ())
    with threadpool_limits(limits=1):  # many small fits: threads cost more than they bring
        asked = probes(drawn.labels, drawn.groups)
        image = asked.linear(drawn.images)
        side = asked.side(drawn.side, encoding.text)
        random = np.random.default_rng(0)
        mixed = [
            asked.side(random.permutation(drawn.side), encoding.text) for _ in range(_PERMUTATIONS)
        ]
        chance = float(np.mean(mixed))
        # Few distinct values make many answers one: mere counting would take chance for more.
        spread = max(float(np.std(mixed, ddof=1)), _standard_error(drawn.labels, chance))
        bar = chance + _SURELY * spread
        verdict: Verdict = "nothing"
        most: list[str] = []
        if side > bar:
            nearly = side - chance >= NEARLY * max(image - chance, 0.0)
            verdict = "leak" if nearly else "informative"
            most = telling_columns(drawn.side, encoding, asked, bar)
            most += telling_words(drawn.texts or [], drawn.labels, names)
    words = (
        f"{_SAYS[verdict]}: by itself it finds {100 * side:.1f} % of the images of a class, the "
        f"image {100 * image:.1f} %, chance {100 * chance:.1f} % ({size} images, cross-validated "
        "on pseudo-labels)"
    )
    if most:
        words += f"; most telling: {', '.join(most)}"
    return LeakageFinding(verdict, words, size, len(groups), side, chance, image, tuple(most))


def _standard_error(labels: Ints, share: float) -> float:
    """Return that of a mean recall: of the mean of one share per class."""
    counts = np.bincount(labels)
    variances = share * (1 - share) / counts[counts > 0]
    return float(np.sqrt(variances.sum()) / len(variances))
