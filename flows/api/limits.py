"""The door of the service: what is too large, too much or from elsewhere goes no further.

Bodies are counted as they arrive, so that none is read further than its limit, whatever its length
is said to be. Every request leaves one line in the log; what it asked for is not in it.
"""

import asyncio
import ipaddress
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar
from urllib.parse import quote, urlsplit

from fastapi import HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

R = TypeVar("R")

JSON_BYTES = 1 << 20  # of a request without images
_FRAME_BYTES = 1 << 16  # of what multipart adds to its files
_LINGER_BYTES, _LINGER_SECONDS = 1 << 18, 1.0
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    "content-security-policy": "default-src 'none'; img-src 'self'; script-src 'self'; "
    "style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}

logger = logging.getLogger(__name__)


class Guard:
    """Middleware around everything else."""

    def __init__(self, app: ASGIApp, *, upload_bytes: int, names: tuple[str, ...] | None) -> None:
        """Let through to `app`.

        Args:
            app: what answers.
            upload_bytes: of a request with images at most.
            names: hosts that requests may name; None: any.
        """
        self._app, self._upload_bytes, self._names = app, upload_bytes, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, headers = time.perf_counter(), Headers(scope=scope)
        several = headers.get("content-type", "").lower().startswith("multipart/")
        limit = self._upload_bytes + _FRAME_BYTES if several else JSON_BYTES
        body = _Body(receive, limit, headers)
        # Whoever asks for the head alone gets that of the answer: the server leaves its body out.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        reply = _Reply(send, body)
        try:
            refusal = self._refusal(headers, limit)
            if refusal is not None:
                await refusal(inner, body.receive, reply.send)
            else:
                await self._app(inner, body.receive, reply.send)
        except ClientDisconnect:
            reply.status = 499  # as nginx calls it
        finally:
            taken = 1000 * (time.perf_counter() - started)
            path = quote(scope["path"], safe="/")  # a line break in it would make a line of its own
            logger.info("%s %s %s %.0f ms", scope["method"], path, reply.status, taken)

    def _refusal(self, headers: Headers, limit: int) -> JSONResponse | None:
        if self._names is not None:
            name = host_of(headers.get("host", ""))
            if name not in self._names:
                return _error(400, f"host {name!r} is not served here; api.hosts lets it in")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            return _error(413, too_large(limit))
        return None


class _Body:
    """A request's body on its way in."""

    def __init__(self, receive: Receive, limit: int, headers: Headers) -> None:
        self._receive, self._limit, self.taken = receive, limit, 0
        self.whole = headers.get("content-length", "0") == "0" and (
            "transfer-encoding" not in headers
        )

    async def receive(self) -> Message:
        message = await self._next()
        if self.taken > self._limit:
            raise HTTPException(413, too_large(self._limit))
        return message

    async def drain(self) -> None:
        """Take a little more: who is cut off while sending may never read the answer."""
        end = self.taken + _LINGER_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self.whole and self.taken < end:
                    await self._next()

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.taken += len(message.get("body", b""))
            self.whole = not message.get("more_body", False)
        else:
            self.whole = True  # nothing more comes
        return message


class _Reply:
    """An answer on its way out."""

    def __init__(self, send: Send, body: _Body) -> None:
        self._send, self._body, self.status = send, body, 500
        self._closes = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            self._closes = not self._body.whole
            if self._closes:  # what is still to come is no next request
                headers["connection"] = "close"
            await self._send(message)
        elif self._closes and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._body.drain()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self._send(message)


class Admission:
    """Lets so many in at once; the next are told to come again."""

    def __init__(self, most: int) -> None:
        """Let `most` in."""
        self.most, self.inside = most, 0

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        """Be inside.

        Raises:
            HTTPException: 503, there are too many.
        """
        if self.inside >= self.most:
            raise busy()
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


async def unless_gone(request: Request, answer: Awaitable[R]) -> R:
    """Wait for an answer as long as its client does; the request's body must have been read.

    Raises:
        ClientDisconnect: the client went away; the answer was cancelled.
    """
    working, gone = asyncio.ensure_future(answer), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def busy() -> HTTPException:
    """Return the answer to who comes when too many are there."""
    return HTTPException(503, "too many requests at once; try again", {"Retry-After": "1"})


def too_large(limit: int) -> str:
    """Say that a request is larger than it may be."""
    return f"the request is larger than {limit / 1e6:.1f} MB (api.max_upload_mb for images)"


def names_for(host: str, others: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return what requests may call a host that is listened on; None: anything.

    A page of anybody's can have a name of its own lead to 127.0.0.1, and then read what is served
    there; so on loopback only the usual names count.
    """
    return (*_LOOPBACK_NAMES, host, *others) if is_loopback(host) else None


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(header: str) -> str:
    """Return the name or address in a Host header, without its port.

    >>> host_of("LocalHost:8765"), host_of("[::1]:80"), host_of("[")
    ('localhost', '::1', '')
    """
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _error(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status)
