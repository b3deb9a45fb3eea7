"""Connections: who opens one and does not say what he wants is hung up on.

Otherwise some thousands of silent ones take all the files that a process may have open, and nobody
else is let in.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def hanging_up_after(seconds: float) -> type[H11Protocol]:
    """Return uvicorn's protocol with a limit on how long the head of a request may take.

    It is the one by h11, whose reading stops while a body is not wanted.
    """

    class Hasty(H11Protocol):
        _hangs_up: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:  # the head is whole, or was nonsense
                self._stop()
            elif self._hangs_up is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._stop()

        def _wait(self) -> None:
            self._hangs_up = self.loop.call_later(seconds, self.transport.close)

        def _stop(self) -> None:
            if self._hangs_up is not None:
                self._hangs_up.cancel()
                self._hangs_up = None

    return Hasty
