"""A label set becomes text vectors, once: they are cached in the store by what they were made of.

Shapes: C classes, R reject prompts, D embedding dimensions.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import unit_rows
from pipeline.caching import cached_arrays, keep_arrays
from pipeline.clip.protocol import ImageEncoder
from pipeline.clip.templates import expanded
from pipeline.identity import EncoderIdentity, digest
from pipeline.label_set import LabelSet, LabelVectors, fill
from pipeline.store import Store

logger = logging.getLogger(__name__)

_TOLD = 5  # classes that are warned of, one by one


@dataclass(frozen=True)
class Cut:
    """Prompts of one class that are longer than what the model reads."""

    label: str | None  # the class; None: the reject prompts
    cut: int
    of: int  # prompts of the class in all
    prompt: str  # the first that is cut
    read: str  # its leading words that the model reads

    def __str__(self) -> str:
        whose = "the reject prompts" if self.label is None else f"class {self.label!r}"
        return (
            f"{whose}: {self.cut} of {self.of} prompts longer than the model reads; of "
            f"{self.prompt!r} it reads {self.read!r}"
        )


def prompts_of(label_set: LabelSet) -> list[list[str]]:
    """Return the prompts of each class: its own, or else each template with its name and aliases.

    Own prompts stand instead of the templates; see `pipeline.label_set`.
    """
    templates = expanded(label_set.templates)
    return [
        list(entry.prompts)
        or [
            fill(template, word, bare=of_a_set)
            for template, of_a_set in templates.items()
            for word in (entry.name, *entry.aliases)
        ]
        for entry in label_set.classes
    ]


def embed_labels(label_set: LabelSet, encoder: ImageEncoder, *, warn: bool = True) -> LabelVectors:
    """Embed every prompt; a class is the direction of the mean of its prompts' unit vectors.

    Prompt ensembling as in Radford et al. 2021, "Learning Transferable Visual Models From Natural
    Language Supervision", section 3.1.4.

    Args:
        label_set: the classes.
        encoder: what embeds texts.
        warn: log a warning of prompts that the model does not read to their end.
    """
    if warn:
        _warn(cut_prompts(label_set, encoder))
    groups = prompts_of(label_set)
    flat = [prompt for group in groups for prompt in group]
    vectors = encoder.encode_texts([*flat, *label_set.against])
    ends = np.cumsum([len(group) for group in groups])
    means = [group.mean(axis=0) for group in np.split(vectors[: len(flat)], ends[:-1])]
    return LabelVectors(classes=unit_rows(np.stack(means)), rejects=vectors[len(flat) :])


def cut_prompts(label_set: LabelSet, encoder: ImageEncoder) -> list[Cut]:
    """Return the classes whose prompts the model does not all read to their end."""
    groups: list[tuple[str | None, list[str]]] = [
        *zip(label_set.names, prompts_of(label_set), strict=True),
        (None, list(label_set.reject)),
    ]
    told = iter(encoder.cut([prompt for _, group in groups for prompt in group]))
    found = []
    for name, group in groups:
        cut = [prompt for prompt in group if next(told)]
        if cut:
            found.append(Cut(name, len(cut), len(group), cut[0], _read(cut[0], encoder)))
    return found


def unreadable(texts: Sequence[str], encoder: ImageEncoder) -> dict[str, str]:
    """Return, of those texts that the model cannot read whole, why.

    A query is not cut off silently: what is not read does not count, and nobody would see it.
    """
    why = {text: "a text without a word" for text in texts if not text.strip()}
    for text, cut in zip(texts, encoder.cut(texts), strict=True):
        if cut:
            tokens, read = encoder.length(text)
            why[text] = (
                f"{_clipped(text)!r} has {tokens} tokens, marks of start and end included, and "
                f"the model reads {read}: shorten it"
            )
    return why


def unknown_words(
    label_set: LabelSet, unknown: Callable[[Sequence[str]], list[bool]]
) -> dict[str, list[str]]:
    """Return, by class, the words of its name and aliases that a tokenizer does not know.

    Args:
        label_set: the classes.
        unknown: tells of which words the tokenizer has no piece.
    """
    words = {c.name: " ".join((c.name, *c.aliases)).split() for c in label_set.classes}
    told = iter(unknown([word for group in words.values() for word in group]))
    found = {name: [word for word in group if next(told)] for name, group in words.items()}
    return {name: group for name, group in found.items() if group}


def _clipped(text: str, width: int = 60) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _warn(cuts: list[Cut]) -> None:
    for cut in cuts[:_TOLD]:
        logger.warning("%s", cut)
    if len(cuts) > _TOLD:
        logger.warning("and %d classes more; `pseudolabel labels check` tells", len(cuts) - _TOLD)


def _read(prompt: str, encoder: ImageEncoder) -> str:
    words = prompt.split()
    beginnings = [" ".join(words[:count]) for count in range(len(words) + 1)]
    whole = [text for text, cut in zip(beginnings, encoder.cut(beginnings), strict=True) if not cut]
    return whole[-1] if whole else ""


def held_label_vectors(store: Store, label_set: LabelSet) -> LabelVectors | None:
    """Return the label set's vectors where the store has them; None where it has not."""
    identity = store.identity()
    held = None if identity is None else cached_arrays(store, _cache_name(identity, label_set))
    return None if held is None else LabelVectors(held["classes"], held["rejects"])


def cached_label_vectors(
    store: Store, label_set: LabelSet, encoder: Callable[[], ImageEncoder]
) -> LabelVectors:
    """Return the label set's vectors from the store, embedding them only the first time.

    Args:
        store: it must hold an encoder's identity already.
        label_set: the classes.
        encoder: called only when the vectors are not there yet, for loading a model is slow.
    """
    held = held_label_vectors(store, label_set)
    if held is not None:
        return held
    model = encoder()
    store.claim(model.identity)
    vectors = embed_labels(label_set, model)
    name = _cache_name(model.identity, label_set)
    keep_arrays(store, name, classes=vectors.classes, rejects=vectors.rejects)
    return vectors


def _cache_name(identity: EncoderIdentity, label_set: LabelSet) -> str:
    # Not of the prompts: sets of templates stay names, so that nothing need load open_clip.
    key = digest([identity.weights, label_set.model_dump(mode="json", exclude={"name"})])
    return f"cache/label-vectors/{key}.npz"
