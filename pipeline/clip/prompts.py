"""A label set becomes text vectors, once: they are cached in the store by what they were made of.

Shapes: C classes, R reject prompts, D embedding dimensions.
"""

from collections.abc import Callable

import numpy as np

from pipeline.arrays import unit_rows
from pipeline.caching import cached_arrays, keep_arrays
from pipeline.clip.protocol import ImageEncoder
from pipeline.identity import EncoderIdentity, digest
from pipeline.label_set import LabelSet, LabelVectors
from pipeline.store import Store


def embed_labels(label_set: LabelSet, encoder: ImageEncoder) -> LabelVectors:
    """Embed every prompt; a class is the direction of the mean of its prompts' unit vectors.

    Prompt ensembling as in Radford et al. 2021, "Learning Transferable Visual Models From Natural
    Language Supervision", section 3.1.4.
    """
    groups = label_set.prompts()
    flat = [prompt for group in groups for prompt in group]
    vectors = encoder.encode_texts([*flat, *label_set.against])
    ends = np.cumsum([len(group) for group in groups])
    means = [group.mean(axis=0) for group in np.split(vectors[: len(flat)], ends[:-1])]
    return LabelVectors(classes=unit_rows(np.stack(means)), rejects=vectors[len(flat) :])


def cached_label_vectors(
    store: Store, label_set: LabelSet, encoder: Callable[[], ImageEncoder]
) -> LabelVectors:
    """Return the label set's vectors from the store, embedding them only the first time.

    Args:
        store: it must hold an encoder's identity already.
        label_set: the classes.
        encoder: called only when the vectors are not there yet, for loading a model is slow.
    """
    identity = store.identity()
    if identity is not None:
        held = cached_arrays(store, _cache_name(identity, label_set))
        if held is not None:
            return LabelVectors(held["classes"], held["rejects"])
    model = encoder()
    store.claim(model.identity)
    vectors = embed_labels(label_set, model)
    name = _cache_name(model.identity, label_set)
    keep_arrays(store, name, classes=vectors.classes, rejects=vectors.rejects)
    return vectors


def _cache_name(identity: EncoderIdentity, label_set: LabelSet) -> str:
    key = digest([identity.weights, label_set.prompts(), label_set.against])
    return f"cache/label-vectors/{key}.npz"
