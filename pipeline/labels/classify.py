"""Classify: vectors just made, and not in any store, against a label set.

Shapes: N images, D embedding dimensions.
"""

from dataclasses import dataclass

from pipeline.arrays import Floats
from pipeline.identity import EncoderIdentity
from pipeline.label_set import LabelSet, LabelVectors
from pipeline.labels.scoring import scorer
from pipeline.labels.voting import vote


@dataclass(frozen=True)
class Ranked:
    """One label that an image may have."""

    label: str
    score: float  # 0 to 1


@dataclass(frozen=True)
class Answer:
    """What one image shows."""

    label: str | None  # null: abstained
    top: list[Ranked]  # likeliest first


def classify(
    images: Floats,
    label_set: LabelSet,
    vectors: LabelVectors,
    identity: EncoderIdentity,
    *,
    top_k: int,
    abstain_below: float,
) -> list[Answer]:
    """Give each of (N, D) image vectors its likeliest labels.

    Args:
        images: (N, D), rows of unit length.
        label_set: the classes.
        vectors: their text vectors, of the same encoder.
        identity: the encoder, for its own scale and bias.
        top_k: labels per image.
        abstain_below: no label below this score, 0 to 1.
    """
    scores = scorer(vectors, identity, multi_label=label_set.multi_label)(images)
    votes = vote(scores, top_k=top_k, abstain_below=abstain_below)
    names = label_set.names
    return [
        Answer(
            label=None if label < 0 else names[label],
            top=[Ranked(names[i], float(s)) for i, s in zip(labels, shares, strict=True)],
        )
        for label, labels, shares in zip(
            votes.label, votes.top_labels, votes.top_scores, strict=True
        )
    ]
