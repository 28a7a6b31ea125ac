"""The head of a request comes in time and is short, or its connection is closed."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LONGEST_HEAD = 65_536  # bytes; what else came in the same piece of data counts too, so a little more may pass
SECONDS = 10.0


class Heads(HttpToolsProtocol):
    """uvicorn's protocol, which itself has no limit for a head."""

    _size = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there, and its first head has to come."""
        super().connection_made(transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        """A piece of a head or of a body."""
        super().data_received(data)
        self._size += len(data)
        if self._timer is not None and self._size > LONGEST_HEAD:
            self.transport.close()

    def on_message_begin(self) -> None:
        """The next head on the same connection."""
        super().on_message_begin()
        self._begin()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._end()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits any more."""
        self._end()
        super().connection_lost(exc)

    def _begin(self) -> None:
        if self._timer is None:
            self._size, self._timer = 0, self.loop.call_later(SECONDS, self.transport.close)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
