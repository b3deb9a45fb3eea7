"""What is asked of the images of a store, and the table that holds the answers."""

from dataclasses import dataclass, fields
from typing import Any

from pipeline.identity import EncoderIdentity, digest
from pipeline.label_set import LabelSet
from pipeline.labels.refinement import Method, generation
from pipeline.labels.scoring import Unknown

NEVER = 2.0  # no `unknown_score` is higher
_ROWS = 2  # raised when rows are made in another way


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of every image."""

    label_set: LabelSet
    top_k: int  # labels kept per image
    abstain_below: float  # no label below this score, 0 to 1
    refine: Method = "none"
    unknown: Unknown = "cosine"
    unknown_above: float = NEVER  # no label above this `unknown_score`

    def table_for(self, identity: EncoderIdentity, images: int = 0) -> str:
        """Return the name of the table of its answers: everything that decides its rows is in it.

        Args:
            identity: of the encoder.
            images: in the store; what is refined is refined anew when they have doubled.
        """
        bars = [self.top_k, self.abstain_below, self.unknown, self.unknown_above]
        refined = [self.refine, generation(images)] if self.refine != "none" else []
        key = digest([_ROWS, identity.weights, self.label_set.fingerprint(), *bars, *refined])
        return f"labels/{self.label_set.name}/{key[:12]}"


@dataclass(frozen=True, kw_only=True)
class LabelRun(Question):
    """A question that was answered."""

    table: str  # of the answers
    source: str = "texts"  # who answered: texts, head:<kind> or self-train:<round>
    learnt_until: str | None = None  # a head has learnt from audit answers up to then; ISO 8601

    @property
    def question(self) -> Question:
        """What was asked."""
        return Question(**{field.name: getattr(self, field.name) for field in fields(Question)})

    def as_json(self) -> dict[str, Any]:
        """Return it as labels/current.json and run.json keep it."""
        return {**vars(self), "label_set": self.label_set.model_dump(mode="json")}
