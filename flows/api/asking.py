"""The routes that ask the model: /search and /classify."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from pydantic import ValidationError

from flows.api.answering import Found, Held, Looking, Naming, Question, Reply, Shown, Words
from flows.api.batching import BusyError
from flows.api.documents import CLASSIFY_BODY, SEARCH_BODY
from flows.api.limits import busy, unless_gone
from flows.api.models import (
    Classified,
    Filter,
    ImageId,
    RankedLabel,
    SearchAnswer,
    SearchRequest,
    Text,
)
from flows.api.service import Service
from flows.api.uploads import (
    body_of,
    checked,
    decoded,
    files_in,
    form_of,
    kind_of,
    require_known,
    text_in,
    wrong_kind,
)
from pipeline.arrays import Pixels
from pipeline.clip.prompts import prompts_of
from pipeline.errors import InputError
from pipeline.images.decoding import Refusal
from pipeline.label_set import LabelSet
from pipeline.labels.classify import Answer
from pipeline.search.queries import Filters
from pipeline.search.searcher import MAX_K
from pipeline.validation import explain

_JSON, _FORM = "application/json", "multipart/form-data"
_MOST_PROMPTS = 2_000  # of labels that are sent: they keep the model from others


def _require_known_options(request: Request) -> None:
    """Refuse what would silently be passed over, and with it a filter that was misspelt.

    Raises:
        HTTPException: 422, the address asks for something else.
    """
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    unknown = sorted(set(request.query_params) - set(known))
    if unknown:
        there = f"there are {', '.join(known)}" if known else "put it into the body"
        raise HTTPException(422, f"{unknown[0]!r:.80}: there is no such option; {there}")


router = APIRouter(dependencies=[Depends(_require_known_options)])


def service_of(request: Request) -> Service:
    """Return the service that an app serves."""
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(service_of)]


@router.get("/search", response_model=SearchAnswer)
async def search_by_words(
    request: Request,
    service: Served,
    text: Annotated[list[Text], Query(max_length=64)] = [],  # noqa: B006 - FastAPI copies it
    image_id: Annotated[list[ImageId], Query(alias="id", max_length=64)] = [],  # noqa: B006
    not_text: Annotated[list[Text], Query(max_length=64)] = [],  # noqa: B006
    label: Annotated[list[str], Query(max_length=64)] = [],  # noqa: B006
    min_confidence: Annotated[float, Query(ge=0, le=1, allow_inf_nan=False)] = 0.0,
    path: str | None = None,
    selected: bool | None = None,
    k: Annotated[int, Query(ge=1, le=MAX_K)] = 10,
) -> Response:
    """Find the images most like a text, or an image of the store; POST can ask for more."""
    terms = [Words(each, 1.0) for each in text] + [Words(each, -1.0) for each in not_text]
    held = [Held(each, 1.0) for each in image_id]
    filters = Filters(
        labels=tuple(label), min_confidence=min_confidence, path_contains=path, kept=selected
    )
    async with service.admission():
        found = await answered(request, service, Looking([*terms, *held], k, filters))
    return _json(found)


@router.post("/search", response_model=SearchAnswer, openapi_extra=SEARCH_BODY)
async def search(request: Request, service: Served) -> Response:
    """Find the images most like texts, images of the store and uploads, away from others."""
    kind = kind_of(request)
    async with service.admission():
        if kind == _JSON:
            query = checked(SearchRequest, await body_of(request, service))
            _require_weights(query, 0)
            return _json(await answered(request, service, _looking(query, [], [])))
        if kind != _FORM:
            raise wrong_kind(kind, _JSON, _FORM)
        async with form_of(request, service) as form:
            require_known(form, "images", "not_images", "query")
            query = checked(SearchRequest, text_in(form, "query") or "{}")
            images, others = files_in(form, "images"), files_in(form, "not_images")
            _require_weights(query, len(images))
            pixels = await unless_gone(request, decoded(service, [*images, *others]))
        seen = _all_pictures(pixels, [file.filename for file in (*images, *others)])
        question = _looking(query, seen[: len(images)], seen[len(images) :])
        return _json(await answered(request, service, question))


@router.post("/classify", response_model=list[Classified], openapi_extra=CLASSIFY_BODY)
async def classify(request: Request, service: Served) -> list[Classified]:
    """Give images their likeliest labels: of the store's label set, or of labels sent along."""
    kind = kind_of(request)
    if kind != _FORM:
        raise wrong_kind(kind, _FORM)
    async with service.admission():
        async with form_of(request, service) as form:
            require_known(form, "images", "labels", "template", "top_k")
            files = files_in(form, "images")
            if not files:
                raise HTTPException(422, "images: send one or more, such as -F images=@photo.jpg")
            names = [file.filename or "upload" for file in files]
            label_set = _label_set(text_in(form, "labels"), text_in(form, "template"))
            top_k = _number(text_in(form, "top_k"))
            seen = await unless_gone(request, decoded(service, files))
        pictures = [pixels for pixels in seen if not isinstance(pixels, Refusal)]
        if not pictures:
            _all_pictures(seen, names)
        answers = await answered(request, service, Naming(pictures, label_set, top_k))
    assert isinstance(answers, list)
    return _classified(names, seen, answers)


def _looking(query: SearchRequest, images: list[Pixels], others: list[Pixels]) -> Looking:
    weights = query.image_weights or (1.0,) * len(images)
    return Looking(
        [
            *(Words(term.text, term.weight) for term in query.texts),
            *(Words(text, -1.0) for text in query.not_texts),
            *(Held(term.id, term.weight) for term in query.ids),
            *(Held(image_id, -1.0) for image_id in query.not_ids),
            *(Shown(pixels, weight) for pixels, weight in zip(images, weights, strict=True)),
            *(Shown(pixels, -1.0) for pixels in others),
        ],
        query.k,
        _filters(query.filters),
    )


def _require_weights(query: SearchRequest, images: int) -> None:
    weights = len(query.image_weights)
    if weights not in (0, images):
        raise InputError(f"image_weights: {weights} weights for {images} images")


def _filters(given: Filter) -> Filters:
    return Filters(
        labels=given.labels,
        min_confidence=given.min_confidence,
        path_contains=given.path_contains,
        path_prefix=given.path_prefix,
        kept=given.selected,
        since=given.since,
        until=given.until,
    )


async def answered(request: Request, service: Service, question: Question) -> Reply:
    """Have a question answered together with those that others ask meanwhile."""
    try:
        return await unless_gone(request, service.batcher.ask(question))
    except BusyError as error:
        raise busy() from error


def _json(found: Reply) -> Response:
    assert isinstance(found, Found)
    return Response(found.json(), media_type=_JSON)


def _all_pictures(
    seen: list[Pixels | Refusal], names: list[str | None] | list[str]
) -> list[Pixels]:
    """Return the pictures.

    Raises:
        HTTPException: 422, one of them is none.
    """
    for name, outcome in zip(names, seen, strict=True):
        if isinstance(outcome, Refusal):
            raise HTTPException(422, f"{name!r:.80}: {outcome.reason}")
    return [outcome for outcome in seen if not isinstance(outcome, Refusal)]


def _label_set(names: str | None, template: str | None) -> LabelSet | None:
    """Make a label set of names with commas between them; never of a file, as options may."""
    if names is None:
        if template is not None:
            raise InputError("template: is for labels that are sent along; send labels, too")
        return None
    fields: dict[str, Any] = {"name": "sent"}
    fields["classes"] = [{"name": name.strip()} for name in names.split(",")]
    if template is not None:
        fields["templates"] = (template,)
    try:
        label_set = LabelSet.model_validate(fields)
    except ValidationError as error:
        raise InputError(explain(error, "labels")) from error
    prompts = sum(map(len, prompts_of(label_set)))
    if prompts > _MOST_PROMPTS:
        raise InputError(f"labels: {prompts} prompts are more than {_MOST_PROMPTS}; send fewer")
    return label_set


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 6 or int(text) < 1:
        raise InputError(f"top_k: must be a whole number of at least 1, got {text!r:.40}")
    return int(text)


def _classified(
    names: list[str], seen: list[Pixels | Refusal], answers: list[Answer]
) -> list[Classified]:
    answered = iter(answers)
    rows = []
    for name, outcome in zip(names, seen, strict=True):
        if isinstance(outcome, Refusal):
            rows.append(Classified(name=name, label=None, top=[], error=outcome.reason))
            continue
        answer = next(answered)
        top = [RankedLabel(label=entry.label, score=entry.score) for entry in answer.top]
        rows.append(Classified(name=name, label=answer.label, top=top, error=None))
    return rows
