"""The app: routes, errors as one line of JSON each, and the few files of its page."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from flows.api import asking, showing
from flows.api.documents import ERRORS, page_of, schema_of
from flows.api.limits import Guard, names_for
from flows.api.models import told
from flows.api.service import Service
from pipeline.errors import InputError, StoreError

_FILES = {"/": ("page.html", "text/html"), "/page.js": ("page.js", "text/javascript")}
_FILES["/page.css"] = ("page.css", "text/css")
_ABOUT = (
    "Search, labels and thumbnails of one store. A text and an image are never as alike as two "
    "images: image_cosine and text_cosine are on scales of their own. Every error is JSON, and its "
    "detail says what to do."
)


def create_app(service: Service) -> FastAPI:
    """Return the app that serves a service, and runs it as long as the app is served."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="pseudolabel api",
        version="1",
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        responses=ERRORS,
    )
    app.state.service = service
    app.include_router(asking.router)
    app.include_router(showing.router)
    app.openapi = lambda: schema_of(app)  # type: ignore[method-assign]
    for path, (name, kind) in _FILES.items():
        content = (Path(__file__).parent / name).read_bytes()
        app.add_api_route(path, _file(content, kind), include_in_schema=False)
    page = page_of(schema_of(app)).encode()
    app.add_api_route("/docs", _file(page, "text/html"), include_in_schema=False)
    app.add_exception_handler(404, _not_here)
    app.add_exception_handler(405, _not_here)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(InputError, _bad_input)
    app.add_exception_handler(StoreError, _bad_store)
    app.add_exception_handler(Exception, _our_fault)
    knobs = service.knobs
    app.add_middleware(
        Guard,
        upload_bytes=int(knobs.max_upload_mb * 1e6),
        names=names_for(knobs.host, knobs.hosts),
    )
    return app


def _file(content: bytes, kind: str) -> Any:
    async def file() -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return file


async def _not_here(request: Request, error: Exception) -> JSONResponse:
    """Say what is not there; the routes' own 404 say it themselves."""
    fault = cast(HTTPException, error)
    detail, path = fault.detail, request.url.path
    if fault.status_code == 405:
        detail = f"{request.method}: {path:.80} does not answer that; /docs tells what it answers"
    elif detail == HTTPStatus.NOT_FOUND.phrase:
        detail = f"{path!r:.80}: there is nothing here; /docs tells what there is"
    return JSONResponse({"detail": detail}, fault.status_code, fault.headers)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    faults = cast(RequestValidationError, error).errors()
    return JSONResponse({"detail": "; ".join(told(fault) for fault in faults[:5])}, 422)


async def _bad_input(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


async def _bad_store(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "10"})


async def _our_fault(_: Request, __: Exception) -> JSONResponse:
    # Starlette raises it again, so that the server logs it with its traceback.
    return JSONResponse({"detail": "a fault of the service itself; its log tells more"}, 500)
