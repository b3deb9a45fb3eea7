"""What the counts of a store say of a label set: swaps, classes that take too much, or nothing.

Plain NumPy. Shapes: C classes, D embedding dimensions.
"""

import numpy as np
import numpy.typing as npt

from pipeline.labels.checking import Finding
from pipeline.labels.tally import Tally

_FEW_IMAGES = 20  # of fewer nothing is said
_CLOSE_IMAGES = 5  # at least, for a pair to be told
_CLOSE_SHARE = 0.05  # at least, of the images of the two
_TOLD = 10  # findings of a kind that are told
_MOST = 0.5  # a share that is told whatever its cause; of two classes:
_MOST_OF_TWO = 0.9
_MANY_CLASSES = 10  # of fewer a spread means nothing
_LEAST_SHARE = 0.01  # at least, for a hub to be told
_LEAST_LEAD = 1.0  # logits at least: where all classes stand alike, a spread is next to nothing
_TAIL = 3.0  # spreads above the median
_NAMED = 10  # classes without images that are named


def judge(names: list[str], tally: Tally, *, rivals: bool = True) -> list[Finding]:
    """Say what is wrong with a label set by what it does to the images of a store.

    Args:
        names: C.
        tally: of the same C classes.
        rivals: whether one label is chosen of all; without, none can swap with another.
    """
    if tally.images < _FEW_IMAGES:
        return []
    swapped = swaps(names, tally) if rivals else []
    return [*swapped, *hubs(names, tally), *never_given(names, tally)]


def swaps(names: list[str], tally: Tally) -> list[Finding]:
    """Find the pairs that are most often winner and close runner-up, in either order.

    Args:
        names: C.
        tally: of the same C classes.
    """
    pairs: dict[tuple[int, int], int] = {}
    for (winner, second), count in tally.close.items():
        pair = (min(winner, second), max(winner, second))
        pairs[pair] = pairs.get(pair, 0) + count
    found = []
    for (a, b), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0])):
        images = int(tally.given[a] + tally.given[b])
        if count < _CLOSE_IMAGES or count < _CLOSE_SHARE * images:
            continue
        cosine = float(tally.vectors.classes[a] @ tally.vectors.classes[b])
        found.append(
            Finding(
                "often swapped",
                (names[a], names[b]),
                count / images,
                f"{count} of the {images} images given to {names[a]!r} or {names[b]!r} were close "
                f"calls between the two (cosine of their texts {cosine:.2f})",
                "merge them, or make one an alias, if you need not tell them apart; else name "
                "what differs to the eye, in names or `prompts`. If such images show neither, "
                "give what they show a label, or a `reject` prompt",
            )
        )
    return found[:_TOLD]


def hubs(names: list[str], tally: Tally) -> list[Finding]:
    """Find classes that take more than can be theirs, the largest first.

    "takes most": half of the images, or 90 % where there are two classes. "hub": among 10 classes
    or more, twice an equal share and at least 1 %, and a lead (see `leads`) of at least 1 logit and
    3 spreads, spread being 1.4826 x the median absolute deviation.

    Args:
        names: C.
        tally: of the same C classes.
    """
    count, labelled = len(names), int(tally.given.sum())
    if count < 2 or not labelled:
        return []
    share, lead = tally.given / labelled, leads(tally)
    near = np.zeros(count, bool)
    if count >= _MANY_CLASSES:
        spread = 1.4826 * float(np.median(np.abs(lead)))
        ahead = lead >= max(_TAIL * spread, _LEAST_LEAD)
        near = ahead & (share >= max(2 / count, _LEAST_SHARE))
    told = np.flatnonzero(near | (share >= (_MOST if count > 2 else _MOST_OF_TWO)))
    return [
        Finding(
            "hub" if near[c] else "takes most",
            (names[c],),
            float(share[c]),
            f"{names[c]!r} was given {100 * share[c]:.0f} % of the images; on those that others "
            f"were given its logit is {abs(lead[c]):.1f} {'above' if lead[c] > 0 else 'below'} "
            f"that of the usual class{': it is near to everything' if near[c] else ''}",
            "if that many images do not show it: make its name narrower, give it `prompts` of its "
            "own, or say in `reject` what else is in the images",
        )
        for c in sorted(told.tolist(), key=lambda c: -share[c])[:_TOLD]
    ]


def leads(tally: Tally) -> npt.NDArray[np.float64]:
    """Return (C,): how far each class stands above the median class, in logits.

    A class is looked at on the images that others were given: of images that show it a high mean
    is no fault. One that was given all of them is looked at on all.

    Args:
        tally: of at least one image.
    """
    others = tally.images - tally.given
    sums = np.where(others[:, None] > 0, tally.total - tally.sums, tally.total)
    means = sums / np.where(others > 0, others, tally.images)[:, None]
    logits = tally.scale * np.einsum("cd,cd->c", tally.vectors.classes.astype(np.float64), means)
    found: npt.NDArray[np.float64] = logits - np.median(logits)
    return found


def never_given(names: list[str], tally: Tally) -> list[Finding]:
    """Find the classes that no image was given to.

    Args:
        names: C.
        tally: of the same C classes.
    """
    unused = [names[c] for c in np.flatnonzero(tally.given == 0)]
    if not unused:
        return []
    listed = ", ".join(map(repr, unused[:_NAMED])) + (" ..." if len(unused) > _NAMED else "")
    return [
        Finding(
            "never given",
            tuple(unused),
            float(len(unused)),
            f"no image of {tally.images} was given to {len(unused)} of {len(names)} classes: "
            f"{listed}",
            "right if no such image is there; else use the commoner word, add aliases, or give "
            "the class `prompts` that say what is seen",
        )
    ]
