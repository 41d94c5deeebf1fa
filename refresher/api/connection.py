"""One connection to the API, whose client may be slow, silent, or one of far too many."""

from __future__ import annotations

import asyncio
import sys
from http import HTTPStatus
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from refresher.api.problems import SECURITY_HEADERS, problem

#: Request line and headers of one request, in bytes; above that it is 431.
MAX_HEAD_BYTES = 16 * 1024


class Connection(H11Protocol):
    """HTTP/1.1 with a client that gets its time and no more.

    uvicorn bounds no more than the pause between two requests: whoever sends one slowly, or does
    not read the answer, keeps the connection for ever. And above its limit of connections it
    refuses newcomers, so that idle ones lock everybody out, probes included.
    """

    #: Seconds in which a request that was begun must be here whole, and an answer be read.
    patience = 10.0
    #: Connections at a time. For one more, the one that is idle the longest is closed.
    most = 512

    _timer: asyncio.TimerHandle | None = None
    #: When it was last the client's turn, on the loop's clock.
    idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # So that `pause_writing` tells of any byte that the client leaves unread.
        transport.set_write_buffer_limits(high=0)
        self.idle_since = self.loop.time()
        self._watch()
        if len(self.connections) > self.most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.idle_since = self.loop.time()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP as any other mistake, with the status that h11 hints at."""
        if self._answered_early:
            self.drop()
            return
        hint = getattr(sys.exception(), "error_status_hint", HTTPStatus.BAD_REQUEST)
        answer = problem(hint, _WORDS.get(hint, msg), headers=_LAST)
        fields = [*self.server_state.default_headers, *answer.raw_headers]
        lines = [f"HTTP/1.1 {hint} {HTTPStatus(hint).phrase}".encode()]
        lines += [name + b": " + value for name, value in fields]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(answer.body)]))
        self.transport.close()

    # --- whose turn it is ----------------------------------------------------------------------

    @property
    def _request(self) -> RequestResponseCycle | None:
        """The last one; uvicorn has none before its head is whole."""
        return cast("RequestResponseCycle | None", self.cycle)

    @property
    def _answered_early(self) -> bool:
        """Whether what comes now is the rest of a request that has its answer."""
        request = self._request
        return request is not None and request.more_body and request.response_started

    @property
    def working(self) -> bool:
        """Whether the client waits for us: its request is whole, and not answered."""
        request = self._request
        return request is not None and not request.more_body and not request.response_complete

    @property
    def _late(self) -> bool:
        """Whether we wait for the client, other than in the pause that uvicorn looks after."""
        if self.flow.write_paused:
            return True
        return not self.working and self.timeout_keep_alive_task is None

    def _watch(self) -> None:
        """Start the client's time with its turn, and stop it with that; a byte wins it nothing."""
        if not self._late:
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.patience, self.drop)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make_room(self) -> None:
        """Close the connection that is idle the longest; where none is, this one."""
        idle = [c for c in self.connections if isinstance(c, Connection) and not c.working]
        min(idle, key=lambda connection: connection.idle_since, default=self).drop()

    def drop(self) -> None:
        """End the connection, whatever is under way on it."""
        self.connections.discard(self)
        self.transport.abort()  # `close` would wait until the client has read what is left


_LAST = {**SECURITY_HEADERS, "Connection": "close"}
_WORDS = {
    HTTPStatus.BAD_REQUEST: "this is not HTTP/1.1",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "request line and headers exceed 16 KiB",
    HTTPStatus.NOT_IMPLEMENTED: "this transfer encoding is not known here",
}
