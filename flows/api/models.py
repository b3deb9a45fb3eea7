"""What requests say and what answers say: the types behind /openapi.json."""

from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from pipeline.search.searcher import MAX_K

MOST_TERMS = 64  # of each kind, in one query
_LONGEST = 2_000  # characters; models read some 77 tokens


def _written(given: object) -> object:
    """Refuse numbers: pydantic takes the year 2020 for 2,020 seconds after 1970."""
    if isinstance(given, str):
        with suppress(ValueError):
            return datetime.fromisoformat(given.strip())
    elif isinstance(given, datetime):
        return given
    raise ValueError("write a time, such as 2026-05-01T18:30+02:00")


Text = Annotated[str, Field(min_length=1, max_length=_LONGEST)]
ImageId = Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="32 hex digits")]
Moment = Annotated[AwareDatetime, BeforeValidator(_written)]
Weight = Annotated[
    float, Field(ge=-1000, le=1000, description="how much it counts; below 0: away from it")
]


class Strict(BaseModel):
    """Refuses what it does not know, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _plain(name: str) -> BeforeValidator:
    """Let plain text stand for a term of weight 1."""
    return BeforeValidator(lambda given: {name: given} if isinstance(given, str) else given)


class TextTerm(Strict):
    """Words to look for; the text alone may stand for it."""

    text: Text
    weight: Weight = 1.0


class ImageTerm(Strict):
    """An image of the store to look for the like of; the id alone may stand for it."""

    id: ImageId
    weight: Weight = 1.0


class Filter(Strict):
    """Which images may answer: those that pass all that is said here."""

    labels: tuple[str, ...] = Field((), max_length=MOST_TERMS, description="any of these")
    min_confidence: float = Field(0.0, ge=0, le=1)
    path_contains: Annotated[str, Field(max_length=_LONGEST)] | None = None
    path_prefix: Annotated[str, Field(max_length=_LONGEST)] | None = None
    selected: bool | None = Field(None, description="whether chosen for training")
    since: Moment | None = Field(None, description="first seen then or later")
    until: Moment | None = Field(None, description="first seen before then")


TextTerms = tuple[Annotated[TextTerm, _plain("text")], ...]
ImageTerms = tuple[Annotated[ImageTerm, _plain("id")], ...]


class SearchRequest(Strict):
    """Things to look for, and things to keep away from, in one query."""

    texts: TextTerms = Field((), max_length=MOST_TERMS)
    not_texts: tuple[Text, ...] = Field((), max_length=MOST_TERMS)
    ids: ImageTerms = Field((), max_length=MOST_TERMS)
    not_ids: tuple[ImageId, ...] = Field((), max_length=MOST_TERMS)
    image_weights: tuple[Weight, ...] = Field(
        (), max_length=MOST_TERMS, description="of the images that are sent along, in their order"
    )
    filters: Filter = Filter()
    k: int = Field(10, ge=1, le=MAX_K, description="images to find")


class Hit(BaseModel):
    """An image that was found."""

    image_id: str
    path: str
    label: str | None
    score: float | None
    confidence: float | None
    image_cosine: float | None = Field(description="mean cosine with the images asked for")
    text_cosine: float | None = Field(description="with the texts; on a scale of its own, lower")
    standing: float | None = Field(
        description="what several terms are ordered by: standard deviations above the average image"
    )


class SearchAnswer(BaseModel):
    """The most similar images, the most similar first."""

    hits: list[Hit]
    images: int = Field(description="that are there in all")
    snapshot: datetime = Field(description="the state of the store that was searched")


class RankedLabel(BaseModel):
    """One label that an image may have."""

    label: str
    score: float


class Classified(BaseModel):
    """What one image shows."""

    name: str = Field(description="as it was sent")
    label: str | None = Field(description="null: abstained, or no picture")
    top: list[RankedLabel]
    error: str | None = Field(None, description="why it is no picture")


class ImageAnswer(BaseModel):
    """What a store knows of an image."""

    image_id: str
    path: str
    paths: list[str] = Field(description="everywhere its bytes lie")
    arrived: datetime | None
    label: str | None
    score: float | None
    confidence: float | None
    labels: list[str] | None = Field(description="all that apply, of a multi-label set")
    topk: list[RankedLabel]
    reason: str | None = Field(description="why it has no label")
    selected: bool | None
    split: str | None
    thumbnail: str
    neighbours: list[Hit]


class LabelCount(BaseModel):
    """A label, and how many images have it now."""

    label: str
    images: int


class LabelsAnswer(BaseModel):
    """The label set in force."""

    name: str
    run: str
    multi_label: bool
    labels: list[LabelCount]
    abstained: int
    calibrated: bool


class Queue(BaseModel):
    """Requests that are under way."""

    inside: int
    most: int
    waiting: int = Field(description="for the model")


class Health(BaseModel):
    """How the service is."""

    status: str = Field(description="ok; or stale: the store cannot be read now, see problem")
    problem: str | None
    store: str
    encoder: str
    images: int
    label_set: str | None
    snapshot: datetime
    snapshot_age_s: float
    checked_s_ago: float
    queue: Queue


class Trouble(BaseModel):
    """Every error: what is wrong, and what to do."""

    detail: str


def told(error: dict[str, Any]) -> str:
    """Return one of pydantic's errors as a line, with the value cut short."""
    where = ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "path"))
    given = "" if error["type"] == "missing" else f", got {error['input']!r:.80}"
    return f"{where or 'request'}: {error['msg'][:1].lower()}{error['msg'][1:]}{given}"
