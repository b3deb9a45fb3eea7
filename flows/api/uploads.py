"""Requests with images: a body in JSON, or in parts with files, as one checked request.

Uploads wait for their turn before they are received, lie in temporary files, and are read whole
only by the thread that decodes them.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import HTTPException, Request
from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from flows.api.limits import busy
from flows.api.models import told
from flows.api.service import Service
from pipeline.arrays import Pixels
from pipeline.images.decoding import Picture, Refusal

M = TypeVar("M", bound=BaseModel)

_FIELDS = 16
_CHARSETS = ("utf-8", "utf8", "us-ascii")
_FIELD_BYTES = 1 << 17


def kind_of(request: Request) -> str:
    """Return the media type of a request's body, in lower case and without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def wrong_kind(kind: str, *right: str) -> HTTPException:
    """Return the answer to a body of another kind."""
    return HTTPException(415, f"content-type {kind or '(none)'!r}: send {' or '.join(right)}")


def checked(model: type[M], data: bytes | str) -> M:
    """Read JSON.

    Raises:
        HTTPException: 400, it is no JSON; 422, it says something wrong.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        status = 400 if any(fault["type"] == "json_invalid" for fault in faults) else 422
        lines = [told({**fault, "input": fault.get("input")}) for fault in faults[:5]]
        raise HTTPException(status, "; ".join(lines)) from error


async def body_of(request: Request, service: Service) -> bytes:
    """Receive a body without images; the door limits it.

    Raises:
        HTTPException: 408, it does not arrive.
    """
    try:
        async with asyncio.timeout(service.knobs.upload_seconds):
            return await request.body()
    except TimeoutError as error:
        raise _late(service) from error


@asynccontextmanager
async def form_of(request: Request, service: Service) -> AsyncIterator[FormData]:
    """Receive a body with images; the block runs while they lie on disk.

    Raises:
        HTTPException: 400, it is not in parts as it says; 408, it does not arrive; 415, its texts
            are not in UTF-8; 503, those who came before keep it waiting.
    """
    _require_utf_8(request)
    async with _turn(service):
        try:
            async with asyncio.timeout(service.knobs.upload_seconds):
                parts = await _received(request, service)
        except TimeoutError as error:
            raise _late(service) from error
        try:
            yield parts
        finally:
            await parts.close()


class _Parts(MultiPartParser):
    """Knows whether a form has ended."""

    ended = False

    def on_end(self) -> None:
        self.ended = True


async def _received(request: Request, service: Service) -> FormData:
    """Receive a form whole: one that is cut off would be taken for a shorter one."""
    parser = _Parts(
        request.headers,
        request.stream(),
        max_files=service.knobs.max_files,
        max_fields=_FIELDS,
        max_part_size=_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from error
    if not parser.ended:
        await form.close()
        raise HTTPException(400, "the form is cut off: the boundary at its end is missing")
    return form


def _require_utf_8(request: Request) -> None:
    """Refuse other encodings: some fail on what they read, or read what JSON cannot say.

    Raises:
        HTTPException: 415.
    """
    _, options = parse_options_header(request.headers.get("content-type"))
    charset = options.get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in _CHARSETS:
        raise HTTPException(415, f"charset {charset!r:.40}: send utf-8")


@asynccontextmanager
async def _turn(service: Service) -> AsyncIterator[None]:
    """Wait for a turn to upload, but not for ever: slow clients may hold all of them.

    Raises:
        HTTPException: 503.
    """
    try:
        async with asyncio.timeout(service.knobs.upload_seconds):
            await service.uploads.acquire()
    except TimeoutError as error:
        raise busy() from error
    try:
        yield
    finally:
        service.uploads.release()


def files_in(form: FormData, name: str) -> list[UploadFile]:
    """Return the files of a form under a name.

    Raises:
        HTTPException: 422, there is text under it.
    """
    found = form.getlist(name)
    files = [part for part in found if isinstance(part, UploadFile)]
    if len(files) < len(found):
        raise HTTPException(422, f"{name}: must be files, such as curl -F {name}=@photo.jpg")
    return files


def text_in(form: FormData, name: str) -> str | None:
    """Return a text of a form; None where there is none.

    Raises:
        HTTPException: 422, there is a file under its name, or more than one text.
    """
    found = form.getlist(name)
    if len(found) > 1:
        raise HTTPException(422, f"{name}: is there {len(found)} times; send it once")
    text = found[0] if found else None
    if isinstance(text, UploadFile):
        raise HTTPException(422, f"{name}: must be text, not a file")
    return text


def require_known(form: FormData, *names: str) -> None:
    """Refuse what would silently be passed over.

    Raises:
        HTTPException: 422, there is something else in the form.
    """
    unknown = sorted(set(form) - set(names))
    if unknown:
        raise HTTPException(422, f"{unknown[0]!r:.80}: there is no such field; {', '.join(names)}")


async def decoded(service: Service, files: list[UploadFile]) -> list[Pixels | Refusal]:
    """Decode uploads as the model wants them, or say why not."""
    found = await asyncio.gather(
        *(service.decode(file.file.read, file.filename or "upload") for file in files)
    )
    return [outcome.pixels if isinstance(outcome, Picture) else outcome for outcome in found]


def _late(service: Service) -> HTTPException:
    return HTTPException(
        408, f"the request did not arrive within {service.knobs.upload_seconds:g} s"
    )
