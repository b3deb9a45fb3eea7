"""The routes that show what a store holds: /images, /thumbnails, /labels, /health."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, HTTPException, Path, Query, Request, Response

from flows.api.answering import Found, Held, Looking
from flows.api.asking import Served, answered
from flows.api.following import Snapshot
from flows.api.limits import unless_gone
from flows.api.models import (
    Health,
    Hit,
    ImageAnswer,
    LabelCount,
    LabelsAnswer,
    Queue,
    RankedLabel,
)
from pipeline.errors import InputError
from pipeline.images.recorded import Gone
from pipeline.search.queries import NO_FILTERS

_MOST_NEIGHBOURS = 100
_DAY = 86_400  # seconds
_SIZE = 192  # pixels
_ROW = ("image_id", "topk_labels", "topk_scores", "reason")
WholeId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="32 hex digits")]

router = APIRouter()


@router.get("/images/{image_id}", response_model=ImageAnswer)
async def image(
    request: Request,
    service: Served,
    image_id: WholeId,
    neighbours: Annotated[int, Query(ge=0, le=_MOST_NEIGHBOURS)] = 0,
) -> ImageAnswer:
    """Tell what the store knows of an image, and who is like it."""
    async with service.admission():
        about = await asyncio.to_thread(_about, service.now, image_id)
        near: list[dict[str, Any]] = []
        if neighbours:
            question = Looking([Held(image_id, 1.0)], neighbours, NO_FILTERS)
            found = await answered(request, service, question)
            assert isinstance(found, Found)
            near = found.hits.to_dicts()
    return ImageAnswer(**about, neighbours=[Hit(**row) for row in near])


@router.get(
    "/thumbnails/{image_id}",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, 304: {}, 410: {}},
)
async def thumbnail(
    request: Request,
    service: Served,
    image_id: WholeId,
    size: Annotated[
        int | None, Query(ge=16, description="longest side in pixels; 192, or what may be asked")
    ] = None,
) -> Response:
    """Return an image of the store made small, if its file is still what was scanned."""
    most = service.knobs.thumbnail
    size = size or min(_SIZE, most)
    if size > most:
        raise HTTPException(422, f"size: must be at most {most} (api.thumbnail), got {size}")
    async with service.admission():
        tag = f'"{image_id}-{size}"'  # an id is a hash of bytes: it never means others
        headers = {"ETag": tag, "Cache-Control": f"private, max-age={_DAY}"}
        known = await asyncio.to_thread(service.now.images.seen, image_id)
        if known and tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        made = await unless_gone(request, service.thumbnail(image_id, size)) if known else None
    if made is None:
        raise _unknown(image_id)
    if isinstance(made, Gone):
        raise HTTPException(410, f"image {image_id}: {made.reason}")
    return Response(made, media_type="image/jpeg", headers=headers)


@router.get("/labels", response_model=LabelsAnswer)
async def labels(service: Served) -> LabelsAnswer:
    """Tell the label set in force, and how many images have each label."""
    labelled = service.now.labelled
    if labelled is None:
        raise HTTPException(404, "the store holds no labels yet; `pseudolabel run` makes them")
    return LabelsAnswer(
        name=labelled.run.label_set.name,
        run=labelled.run.table.rpartition("/")[2],
        multi_label=labelled.run.label_set.multi_label,
        labels=[LabelCount(label=name, images=n) for name, n in labelled.counts.items()],
        abstained=labelled.abstained,
        calibrated=labelled.calibrated,
    )


@router.get("/health", response_model=Health)
async def health(service: Served) -> Health:
    """Tell how the service is; it answers when everything else is too busy."""
    now, problem = service.now, service.follower.problem
    return Health(
        status="ok" if problem is None else "stale",
        problem=problem,
        store=now.store.location,
        encoder=str(service.encoder.identity),
        images=len(now.searcher),
        label_set=now.labelled.run.label_set.name if now.labelled else None,
        snapshot=now.at,
        snapshot_age_s=(datetime.now(UTC) - now.at).total_seconds(),
        checked_s_ago=service.follower.looked_ago,
        queue=Queue(
            inside=service.admission.inside,
            most=service.admission.most,
            waiting=service.batcher.waiting,
        ),
    )


def _about(now: Snapshot, image_id: str) -> dict[str, Any]:
    seen = now.images.seen(image_id)
    try:
        about = now.searcher.about(image_id)
    except InputError as error:
        raise _unknown(image_id) from error
    row = _label_row(now, image_id)
    top = zip(row.get("topk_labels") or [], row.get("topk_scores") or [], strict=True)
    return {
        **{name: about[name] for name in ("image_id", "path", "label", "score", "confidence")},
        "paths": [each.path for each in seen],
        "arrived": about["arrived"],
        "labels": about["labels"],
        "topk": [RankedLabel(label=label, score=score) for label, score in top],
        "reason": row.get("reason"),
        "selected": about["kept"],
        "split": about["split"],
        "thumbnail": f"/thumbnails/{image_id}",
    }


def _label_row(now: Snapshot, image_id: str) -> dict[str, Any]:
    """Read what a snapshot does not hold of the labels of an image: a column of each part."""
    if now.labelled is None:
        return {}
    table = now.labelled.run.table
    for part in reversed(now.store.parts(table)):
        try:
            if image_id in now.store.read(table, ["image_id"], [part])["image_id"]:
                rows = now.store.read(table, _ROW, [part]).filter(pl.col("image_id") == image_id)
                return rows.row(0, named=True)
        except FileNotFoundError:  # merged meanwhile, or of an older label run by now
            continue
    return {}


def _unknown(image_id: str) -> HTTPException:
    return HTTPException(404, f"image {image_id}: the store has no such image that is there now")
