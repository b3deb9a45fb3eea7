"""Look at a label set by itself: what in it will label badly, and what to do about it.

Nothing here touches a disk or a model. Shapes: C classes, D embedding dimensions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Floats, require_unit_rows
from pipeline.label_set import LabelSet, normal_word, without_article
from pipeline.labels.meanings import QUALITIES, QUALITIES_AMONG_OTHERS, SEVERAL_MEANINGS

_SAME = 0.98  # cosine of two texts that hardly differ, whatever the others do
_ALIKE = 0.95  # on OpenAI's ViT-B/32 toy and miniature poodle reach it, cat and dog (0.94) do not
_TAIL = 2.5  # spreads above the median of all pairs, for the classes may be alike by nature
_FEW_PAIRS = 10  # of fewer a spread means nothing
_TOLD = 20  # pairs that are told
_BLOCK = 1024  # classes compared with all at a time
_BINS = 4000  # of the cosines of all pairs, -1 to 1


@dataclass(frozen=True)
class Finding:
    """Something about a label set that a person should look at."""

    kind: str
    classes: tuple[str, ...]
    number: float | None  # what was measured; `words` say what it is. Null: nothing was
    words: str
    advice: str


def check_label_set(label_set: LabelSet, classes: Floats) -> list[Finding]:
    """Look at the words of a label set and at the directions that a model gives them.

    Args:
        label_set: the classes.
        classes: (C, D), rows of unit length, one text vector per class.

    Raises:
        ValueError: a row is not of unit length (NaN included).
    """
    found = [*near_identical(label_set.names, classes), *several_meanings(label_set)]
    if not label_set.multi_label:  # an envelope may be red where labels are no rivals
        found += [*nested(label_set), *parts_of_one_thing(label_set)]
    return found


def near_identical(names: list[str], classes: Floats) -> list[Finding]:
    """Find pairs of classes whose texts a model can hardly tell apart, the closest first.

    Their cosine is 0.98 or more; or 0.95 or more and 2.5 spreads above the median of all pairs,
    spread being 1.4826 x the median absolute deviation. Between fewer than 10 pairs there is no
    spread, and 0.95 is enough.

    Args:
        names: C.
        classes: (C, D), rows of unit length.

    Raises:
        ValueError: a row is not of unit length (NaN included).
    """
    require_unit_rows("classes", classes)
    counts = np.zeros(_BINS, np.int64)
    pairs: list[tuple[float, int, int]] = []
    for at in range(0, len(classes), _BLOCK):
        cosines = classes[at : at + _BLOCK] @ classes.T
        rows, columns = np.nonzero(np.triu(np.ones(cosines.shape, bool), at + 1))
        values = cosines[rows, columns]
        counts += np.histogram(values.clip(-1, 1), _BINS, (-1, 1))[0]
        close = values >= _ALIKE
        found = (values[close].tolist(), (rows[close] + at).tolist(), columns[close].tolist())
        pairs += zip(*found, strict=True)
    bar = _bar(counts)
    told = [
        Finding(
            "near-identical",
            (names[a], names[b]),
            cosine,
            f"to this model {names[a]!r} and {names[b]!r} are all but one text (cosine "
            f"{cosine:.2f}): which of them wins is chance",
            "keep one and make the other its alias; or say by which sight they differ, in names "
            "or `prompts`",
        )
        for cosine, a, b in sorted(pairs, reverse=True)
        if cosine >= bar
    ]
    return told[:_TOLD]


def _bar(counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    """Return the cosine from which on a pair is told, by the histogram of all pairs."""
    if counts.sum() < _FEW_PAIRS:
        return _ALIKE
    middles = (np.arange(_BINS) + 0.5) * 2 / _BINS - 1
    median = _weighted_median(middles, counts)
    spread = 1.4826 * _weighted_median(np.abs(middles - median), counts)
    return min(_SAME, max(_ALIKE, median + _TAIL * spread))


def _weighted_median(
    values: np.ndarray[tuple[int], np.dtype[np.float64]],
    counts: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> float:
    order = np.argsort(values)
    below = np.cumsum(counts[order])
    return float(values[order][np.searchsorted(below, below[-1] / 2)])


def nested(label_set: LabelSet) -> list[Finding]:
    """Find classes whose name or alias stands within another's, as "envelope" in "red envelope"."""
    owner = {_bare(w): c.name for c in label_set.classes for w in (c.name, *c.aliases)}
    found: dict[tuple[str, str], Finding] = {}
    for word, name in owner.items():
        for inner in _inside(word):
            wide = owner.get(inner, name)
            if wide != name:
                found[wide, name] = Finding(
                    "nested",
                    (wide, name),
                    None,
                    f"{inner!r} is part of {word!r}: an image of {name!r} may fit {wide!r} as "
                    "well, and they take images from one another",
                    f"drop {wide!r}, or say what else it is for; or make one the other's alias. "
                    "Do not write what is not there ('no', 'without'): CLIP looks past it",
                )
    return list(found.values())


def _inside(word: str) -> Iterator[str]:
    """Yield every run of words within `word` that is shorter than it."""
    words = word.split()
    for length in range(1, len(words)):
        for start in range(len(words) - length + 1):
            yield " ".join(words[start : start + length])


def several_meanings(label_set: LabelSet) -> list[Finding]:
    """Find names with several meanings, by a short list; a class with own prompts explains itself.

    Args:
        label_set: the classes.
    """
    return [
        Finding(
            "several meanings",
            (entry.name,),
            None,
            f"{word!r} may be {SEVERAL_MEANINGS[_bare(word)]} (by a list of "
            f"{len(SEVERAL_MEANINGS)} such words; it knows no others)",
            "say which in the name ('crane bird'), or give the class `prompts` of its own ('a "
            "photo of a crane, a wading bird.')",
        )
        for entry in label_set.classes
        if not entry.prompts
        for word in (entry.name, *entry.aliases)
        if _bare(word) in SEVERAL_MEANINGS
    ]


def parts_of_one_thing(label_set: LabelSet) -> list[Finding]:
    """Find labels that say how or where beside labels that say what: `red`, `envelope`, `China`.

    Told by lists of words; a label set of qualities alone (colours, moods) is a fair question.

    Args:
        label_set: the classes.
    """
    split = {name: set(_bare(name).split()) for name in label_set.names}
    if not any(words <= QUALITIES for words in split.values()):
        return []
    known = QUALITIES | QUALITIES_AMONG_OTHERS
    how = [name for name, words in split.items() if words <= known]
    what = [name for name in split if name not in how]
    if not what:
        return []
    one = f"{_bare(how[0])} {_bare(what[0])}"
    listed = ", ".join(map(repr, how[:5])) + (" ..." if len(how) > 5 else "")
    return [
        Finding(
            "parts of one thing",
            (*how, what[0]),
            float(len(how)),
            f"{listed} tell how a thing is or where it is from, {what[0]!r} what it is. Labels are "
            f"rivals: a picture of a {one} fits all of them, they share out its score, and "
            "whichever wins tells a part. A label set of 'red', 'envelope' and 'China' labels a "
            "red envelope badly; the one label 'red envelope' gets it right",
            f"write what is seen as one label, such as {one!r}, beside other whole things it may "
            "be confused with; or set multi_label = true, where each label is a question of its "
            "own",
        )
    ]


def _bare(word: str) -> str:
    return without_article(normal_word(word))
