"""The door of the service: how much of a body is read, who is let in, and what the log says."""

import asyncio
import logging
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, Request
from starlette.requests import ClientDisconnect

from flows.api.limits import Admission, Guard, names_for, unless_gone

CHUNK = 64 * 1024
LIMIT = 1_000_000
Headers = list[tuple[bytes, bytes]]
JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
PARTS = (b"content-type", b"multipart/form-data; boundary=x")


class Talk:
    """One request whose body comes in chunks, and what came back."""

    def __init__(self, headers: Headers, chunks: int) -> None:
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": "/up",
            "query_string": b"secret=1",
            "headers": [(b"host", b"localhost:1"), *headers],
        }
        self.left, self.given = chunks, 0
        self.messages: list[Any] = []

    async def receive(self) -> dict[str, Any]:
        if not self.left:
            await asyncio.sleep(60)
        self.left -= 1
        self.given += CHUNK
        return {"type": "http.request", "body": b"x" * CHUNK, "more_body": self.left > 0}

    async def send(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])


def app() -> FastAPI:
    made = FastAPI()

    @made.post("/up")
    async def up(request: Request) -> int:
        return sum([len(chunk) async for chunk in request.stream()])

    @made.post("/deaf")
    async def deaf() -> None:
        raise HTTPException(418, "not heard")

    return made


def talk(headers: Headers, chunks: int, path: str = "/up", names: Any = ("localhost",)) -> Talk:
    talked = Talk(headers, chunks)
    talked.scope["path"] = path
    guard = Guard(app(), upload_bytes=LIMIT, names=names)
    asyncio.run(asyncio.wait_for(guard(talked.scope, talked.receive, talked.send), 20))
    return talked


CHUNKED = (b"transfer-encoding", b"chunked")


def test_a_body_within_the_limit_arrives_whole() -> None:
    talked = talk([PARTS, CHUNKED], 10)
    assert (talked.status, talked.body) == (200, str(10 * CHUNK).encode())
    assert b"connection" not in talked.headers


@pytest.mark.parametrize(("kind", "limit"), [(PARTS, LIMIT + 65_536), (JSON, 1 << 20)])
def test_an_endless_body_is_read_no_further_than_its_limit(kind: Any, limit: int) -> None:
    talked = talk([kind, CHUNKED], 1_000_000)
    assert talked.status == 413
    assert b"larger than" in talked.body
    assert talked.headers[b"connection"] == b"close"
    assert talked.given <= limit + CHUNK + (1 << 18) + CHUNK  # a chunk too many, and lingering


def test_a_length_above_the_limit_is_refused_before_anything_is_read() -> None:
    talked = Talk([PARTS, (b"content-length", b"10000000000")], 0)
    guard = Guard(app(), upload_bytes=LIMIT, names=None)
    asyncio.run(asyncio.wait_for(guard(talked.scope, talked.receive, talked.send), 20))
    assert (talked.status, talked.given) == (413, 0)
    assert talked.messages[1]["more_body"]  # sent before what is still to come is waited for
    assert not talked.messages[-1]["more_body"]


def test_who_answers_without_listening_closes_the_connection() -> None:
    talked = talk([PARTS, CHUNKED], 1_000_000, path="/deaf")
    assert (talked.status, talked.headers[b"connection"]) == (418, b"close")
    assert talked.given <= (1 << 18) + CHUNK


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost:80", 200),
        (b"LOCALHOST", 200),
        (b"evil.example:80", 400),
        (b"[", 400),
        (b"", 400),
    ],
)
def test_only_known_names_are_served_on_loopback(host: bytes, status: int) -> None:
    talked = Talk([], 1)
    talked.scope["headers"] = [(b"host", host), PARTS, CHUNKED]
    guard = Guard(app(), upload_bytes=LIMIT, names=names_for("127.0.0.1", ()))
    asyncio.run(guard(talked.scope, talked.receive, talked.send))
    assert talked.status == status


def test_names() -> None:
    assert "proxy.example" in (names_for("::1", ("proxy.example",)) or ())
    assert names_for("0.0.0.0", ()) is None
    assert names_for("192.0.2.1", ()) is None


def test_the_log_has_a_line_for_each_request_and_nothing_of_what_was_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "flows.api"):
        talk([PARTS, CHUNKED], 1, path="/up\n2026 INFO forged")
    [line] = [r.getMessage() for r in caplog.records if r.name == "flows.api.limits"]
    assert line.startswith("POST /up%0A2026%20INFO%20forged 404 ")
    assert "secret" not in line


def test_admission_refuses_the_next_and_lets_in_again() -> None:
    async def whole() -> None:
        admission = Admission(1)
        async with admission():
            with pytest.raises(HTTPException) as refused:
                async with admission():
                    pass
            assert refused.value.status_code == 503
            assert refused.value.headers == {"Retry-After": "1"}
        with pytest.raises(ZeroDivisionError):
            async with admission():
                raise ZeroDivisionError
        assert admission.inside == 0

    asyncio.run(whole())


def test_what_nobody_waits_for_any_more_is_cancelled() -> None:
    cancelled = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def gone() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def whole() -> None:
        request = Request({"type": "http", "headers": []}, gone)
        with pytest.raises(ClientDisconnect):
            await unless_gone(request, slow())
        await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(whole(), 20))
    assert cancelled == [True]


def test_an_answer_comes_through_and_so_does_a_fault() -> None:
    async def fault() -> None:
        raise ZeroDivisionError

    async def never() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    async def whole() -> None:
        request = Request({"type": "http", "headers": []}, never)
        assert await unless_gone(request, asyncio.sleep(0, "answer")) == "answer"
        with pytest.raises(ZeroDivisionError):
            await unless_gone(request, fault())

    asyncio.run(asyncio.wait_for(whole(), 20))
