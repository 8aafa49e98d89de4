"""Connections: uvicorn's HTTP with limits on what a connection may do before a route sees it."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from asyncio import TimerHandle, Transport
from collections.abc import Iterator
from typing import Any, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from singleshot.errors import printable
from singleshot.serve.options import ServeOptions
from singleshot.serve.schema import error_values

_HEADER_BYTES = 16 * 1024
_MORE_SECONDS = 2.0  # that a request may take past what its body may take
_IDLE_SECONDS = 30  # of a connection between two requests
_GRACE = 5  # seconds past the longest request, at the end
_LINGER_SECONDS = 2.0  # that what a client goes on sending is read and dropped
_WHOLE = (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)  # states of a client that has sent all of its request


class _LingeringTransport:
    """A transport that is closed later where its client still sends: closing at once would reset the connection, and
    the client might never see why."""

    def __init__(self, transport: Transport, protocol: H11Protocol) -> None:
        self._transport, self._protocol, self._closing = transport, protocol, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        if self._protocol.conn.their_state in _WHOLE:
            self._transport.close()
            return
        self._closing = True
        self._protocol.flow.resume_reading()
        self._transport.write_eof()
        self._protocol.loop.call_later(_LINGER_SECONDS, self._transport.close)


def protocol_for(options: ServeOptions) -> type[H11Protocol]:
    """HTTP for one service: a connection too many is refused, one that sends no whole request in time is closed."""
    seconds = options.body_seconds + _MORE_SECONDS

    class LimitedProtocol(H11Protocol):
        _deadline: TimerHandle | None = None

        def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
            super().connection_made(cast(Transport, _LingeringTransport(transport, self)))
            _send_at_once(transport)
            if len(self.connections) > options.connections:
                self._refuse(503, "connections", "too many connections at once", b"Retry-After: 1\r\n")
                return
            self._deadline = self.loop.call_later(seconds, self._expire)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            if self.conn.their_state in (*_WHOLE, h11.ERROR):
                self._cancel()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(seconds, self._expire)

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            """Called while the error is handled, which says more than `msg`."""
            error = sys.exc_info()[1]
            status = getattr(error, "error_status_hint", 400)
            if self.cycle is not None and not self.cycle.response_complete:  # amid a body, which a route reads
                if self.cycle.response_started:
                    self.transport.close()
                    return
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self._refuse(status, "bad_request", printable(error or msg, 100))

        def _cancel(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _expire(self) -> None:
            self._deadline = None
            if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
                self._refuse(408, "header_timeout", f"no whole request within {seconds:g} s")
            else:
                self.transport.close()

        def _refuse(self, status: int, code: str, message: str, more: bytes = b"") -> None:
            body = json.dumps(error_values(code, message)).encode()
            head = (
                b"HTTP/1.1 %d Refused\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n"
            )
            self.transport.write(head % (status, len(body)) + more + b"\r\n" + body)
            self.transport.close()

    return LimitedProtocol


def _send_at_once(transport: Transport) -> None:
    """asyncio does so only for sockets that were made with TCP's number; else the body of an answer waits until the
    client has acknowledged the head, which takes 40 ms."""
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Server(uvicorn.Server):
    """Signals are ours: the workers are still to be ended after the server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the service's own: uvicorn takes none."""
        yield

    def stop(self, *_: object) -> None:
        """Finish what was taken and end; called again: end."""
        self.force_exit = self.should_exit
        self.should_exit = True


def server_for(options: ServeOptions, app: ASGIApp) -> Server:
    """The server of an application."""
    return Server(
        uvicorn.Config(
            app,
            http=protocol_for(options),
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_IDLE_SECONDS,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            timeout_graceful_shutdown=int(options.request_seconds) + _GRACE,
        )
    )
